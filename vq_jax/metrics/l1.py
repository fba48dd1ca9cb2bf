"""Mean absolute error of paired images."""

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("real", "fake")


def init() -> _fold.Mean:
  """No image yet."""
  return _fold.Mean()


def update(state: _fold.Mean, batch: Batch) -> _fold.Mean:
  """Adds the mean of |real - fake| over pixels and channels of each pair.

  Args:
    state: what the earlier batches gave.
    batch: `real`, `fake` [b h w c] in [0, 1]; optional `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: a key is missing, shapes differ, or values leave [0, 1].
  """
  real, fake = _fold.images(batch)
  return state.add(np.abs(real.astype(np.float64) - fake).mean(axis=(1, 2, 3)))


def compute(state: _fold.Mean) -> dict[str, float]:
  """`l1`: the mean over images, as a fraction of the data range."""
  return {"l1": state.value()}
