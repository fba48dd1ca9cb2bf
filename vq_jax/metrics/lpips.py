"""Perceptual distance of paired images (arXiv:1801.03924)."""

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("lpips",)


def init() -> _fold.Mean:
  """No pair yet."""
  return _fold.Mean()


def update(state: _fold.Mean, batch: Batch) -> _fold.Mean:
  """Adds b pairs.

  Args:
    state: what the earlier batches gave.
    batch: `lpips` [b], the distance of each pair, such as
      `features.lpips.distance` gives; optional `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: the key is missing, or is not [b] finite numbers of 0 or more.
  """
  (distances,) = _fold.rows(batch, *NEEDS)
  if distances.ndim != 1 or not np.all(np.isfinite(distances)):
    raise ValueError(f"lpips must be finite and [b]; got {distances.shape}.")
  if np.any(distances < 0):
    raise ValueError(f"lpips is a distance; got {distances.min()}.")
  return state.add(distances)


def compute(state: _fold.Mean) -> dict[str, float]:
  """`lpips`: the mean over pairs; ValueError if there was none."""
  return {"lpips": state.value()}
