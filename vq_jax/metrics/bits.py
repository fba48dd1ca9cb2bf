"""Mean code length of a prior, with its standard error."""

import math

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("bits",)


def init() -> _fold.Moments:
  """No example yet."""
  return _fold.Moments()


def update(state: _fold.Moments, batch: Batch) -> _fold.Moments:
  """Adds b more examples.

  Args:
    state: what the earlier batches gave.
    batch: `bits` [b], bits per token of each example; optional `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: the key is missing, or is not [b] finite numbers.
  """
  (bits,) = _fold.rows(batch, "bits")
  if bits.ndim != 1:
    raise ValueError(
      f"bits must be [b], one number an example; got {bits.shape}."
    )
  return state.add(_fold.finite("bits", bits[:, None]))


def compute(state: _fold.Moments) -> dict[str, float]:
  """The mean over examples and its uncertainty.

  Returns:
    `bits_per_token`, and `bits_per_token_stderr` = s / sqrt(examples) with the
    unbiased s^2: NaN for a single example.

  Raises:
    ValueError: no example was seen.
  """
  if not state.count:
    raise ValueError("The metric has seen no example.")
  error = math.nan
  if state.count > 1:
    error = math.sqrt(state.covariance().item() / state.count)
  return {
    "bits_per_token": state.mean.item(),
    "bits_per_token_stderr": error,
  }
