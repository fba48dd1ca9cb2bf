"""Peak signal-to-noise ratio of paired images."""

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("real", "fake")


def init() -> _fold.Mean:
  """No image yet."""
  return _fold.Mean()


def update(state: _fold.Mean, batch: Batch) -> _fold.Mean:
  """Adds -10 log10(mean squared error) of each pair, data range 1.

  Args:
    state: what the earlier batches gave.
    batch: `real`, `fake` [b h w c] in [0, 1]; optional `mask` [b].

  Returns:
    The new state. A pair without any error counts as infinity.

  Raises:
    ValueError: a key is missing, shapes differ, or values leave [0, 1].
  """
  real, fake = _fold.images(batch)
  error = np.square(real.astype(np.float64) - fake).mean(axis=(1, 2, 3))
  with np.errstate(divide="ignore"):
    return state.add(-10.0 * np.log10(error))


def compute(state: _fold.Mean) -> dict[str, float]:
  """`psnr_db`: the mean over images of the ratio of each image, in decibel."""
  return {"psnr_db": state.value()}
