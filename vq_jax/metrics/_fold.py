"""What the folds share: reading a batch without its padding, running sums.

States live on the host in float64, so that a result does not depend on how
the examples were cut into batches. Rows of arrays that are split over devices
and hosts are fetched: every host has the same state and the same result.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vq_jax.types import Batch

_SLACK = 1e-3  # Resizing and low-precision decoders overshoot by about that.


def present(batch: Batch, *keys: str) -> dict[str, np.ndarray]:
  """The arrays of `keys` that the batch brings, without its padded rows.

  Args:
    batch: arrays [b ...], and optionally `mask` [b] bool: False is padding. The
      mask speaks of every key of its batch.
    *keys: the names wanted.

  Returns:
    {key: numpy array [b' ...]}, b' <= b.

  Raises:
    ValueError: none of the keys is there, or the batch sizes disagree.
  """
  found = {key: _local(batch[key]) for key in keys if key in batch}
  if not found:
    raise ValueError(
      f"The batch has none of {', '.join(keys)}; it has {sorted(batch)}."
    )
  if "mask" in batch:
    found["mask"] = _local(batch["mask"]).astype(bool)
  if len({len(array) for array in found.values()}) > 1:
    sizes = {key: len(array) for key, array in found.items()}
    raise ValueError(f"The batch sizes disagree: {sizes}.")
  mask = found.pop("mask", ...)
  return {key: array[mask] for key, array in found.items()}


def rows(batch: Batch, *keys: str) -> tuple[np.ndarray, ...]:
  """Like `present`, in the order of `keys`; ValueError if one is missing."""
  missing = [key for key in keys if key not in batch]
  if missing:
    raise ValueError(
      f"The batch lacks {', '.join(missing)}; it has {sorted(batch)}."
    )
  found = present(batch, *keys)
  return tuple(found[key] for key in keys)


def _local(array: np.ndarray | jax.Array) -> np.ndarray:
  """The whole array on this host; every host must ask."""
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    array = multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def images(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
  """The pairs `real`, `fake`: floats in [0, 1], [b h w c] each.

  Raises:
    ValueError: shapes differ, or values that are not floats in [0, 1].
  """
  pair = rows(batch, "real", "fake")
  if pair[0].shape != pair[1].shape or pair[0].ndim != 4:
    raise ValueError(
      "real and fake must have one shape [b h w c]; got "
      f"{pair[0].shape} and {pair[1].shape}."
    )
  for name, array in zip(("real", "fake"), pair, strict=True):
    # Written so that NaN fails. Bytes and [-1, 1] would pass unnoticed into a
    # formula that takes the data range to be 1.
    inside = (array >= -_SLACK) & (array <= 1 + _SLACK)
    if array.dtype.kind in "iub" or not inside.all():
      raise ValueError(f"{name} must hold floats in [0, 1].")
  return pair


def finite(name: str, array: np.ndarray) -> np.ndarray:
  """A float64 copy of features [b d]; ValueError if not finite or not 2-D."""
  array = array.astype(np.float64)
  if array.ndim != 2 or not np.isfinite(array).all():
    raise ValueError(f"{name} must be finite and [b d]; got {array.shape}.")
  return array


def unit(name: str, x: np.ndarray) -> np.ndarray:
  """x / |x| in float64, [b e]; ValueError if a row is zero."""
  x = finite(name, x)
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  if not norm.all():
    raise ValueError(f"{name} has a zero row: it has no direction.")
  return x / norm


def count_ids(ids: np.ndarray, vocab_size: int) -> np.ndarray:
  """How often each code occurs: ids [...] -> int64 [K].

  Raises:
    ValueError: an id that is not an integer in 0..K-1, such as the mask K.
  """
  if ids.dtype.kind not in "iu":
    raise ValueError(f"ids must be integers, not {ids.dtype}.")
  if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
    raise ValueError(
      f"ids must lie in 0..{vocab_size - 1}; got {ids.min()}..{ids.max()}."
    )
  return np.bincount(ids.ravel().astype(np.int64), minlength=vocab_size)


class Mean(NamedTuple):
  """A running mean over examples."""

  total: float = 0.0
  count: int = 0

  def add(self, values: np.ndarray) -> "Mean":
    """With the values [b] of b more examples."""
    total = float(np.sum(values, dtype=np.float64))
    return Mean(self.total + total, self.count + len(values))

  def value(self) -> float:
    """The mean; ValueError if there was no example."""
    if not self.count:
      raise ValueError("The metric has seen no example.")
    return self.total / self.count


class Moments(NamedTuple):
  """Running mean and scatter of vectors [d].

  The first batch gives d: zero scalars broadcast.

  Attributes:
    count: vectors seen.
    mean: [d].
    scatter: sum of (x - mean)(x - mean)^T, [d d].
  """

  count: int = 0
  mean: np.ndarray = np.zeros(())
  scatter: np.ndarray = np.zeros(())

  def add(self, x: np.ndarray) -> "Moments":
    """With b more vectors, float64 [b d] (Chan, Golub, LeVeque 1983).

    Sums of squares would lose half the digits where means are large.

    Raises:
      ValueError: d is not that of the earlier batches.
    """
    if not len(x):
      return self
    if self.count and x.shape[1:] != self.mean.shape:
      raise ValueError(f"Vectors of {self.mean.shape}, then {x.shape[1:]}.")
    count = self.count + len(x)
    mean = x.mean(axis=0)
    delta = mean - self.mean
    between = np.outer(delta, delta) * (self.count * len(x) / count)
    centred = x - mean
    return Moments(
      count,
      self.mean + delta * (len(x) / count),
      self.scatter + centred.T @ centred + between,
    )

  def covariance(self) -> np.ndarray:
    """The unbiased covariance [d d]; ValueError below two vectors."""
    if self.count < 2:
      raise ValueError(
        f"A covariance needs two examples or more, not {self.count}."
      )
    return self.scatter / (self.count - 1)
