"""Structural similarity of paired images (Wang et al. 2004, IEEE TIP 13(4))."""

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Array, Batch

NEEDS = ("real", "fake")

_SIZE = 11
_BELL = np.exp(-0.5 * (np.arange(_SIZE) - _SIZE // 2) ** 2 / 1.5**2)
_WINDOW = (_BELL / _BELL.sum()).tolist()
_C1, _C2 = 0.01**2, 0.03**2  # (k L)^2 with data range L = 1.


def init() -> _fold.Mean:
  """No image yet."""
  return _fold.Mean()


def update(state: _fold.Mean, batch: Batch) -> _fold.Mean:
  """Adds the similarity of each pair: eq. 13, gaussian window, eq. 14-16.

  11 x 11 window of sigma 1.5, k1 = 0.01, k2 = 0.03, data range 1, valid region,
  mean over channels, at the resolution given (no downsampling first).

  Args:
    state: what the earlier batches gave.
    batch: `real`, `fake` [b h w c] in [0, 1]; optional `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: a key is missing, shapes differ, values leave [0, 1], or the
      images are smaller than the window.
  """
  real, fake = _fold.images(batch)
  if min(real.shape[1:3]) < _SIZE:
    raise ValueError(
      f"ssim needs images of {_SIZE} x {_SIZE} pixels or more; got "
      f"{real.shape[1]} x {real.shape[2]}."
    )
  if not len(real):
    return state
  return state.add(
    np.asarray(_similarity(real, fake)).mean(axis=1, dtype=float)
  )


def compute(state: _fold.Mean) -> dict[str, float]:
  """`ssim`: the mean over images, 1 where they are equal."""
  return {"ssim": state.value()}


@jax.jit
def _similarity(x: Array, y: Array) -> Array:
  """Row means of the similarity map: [b h w c] twice -> [b h-10]."""
  # Variances do not move with the origin, but in float32 they are differences
  # of squares: half a unit nearer to zero leaves two more bits.
  x, y = x.astype(jnp.float32) - 0.5, y.astype(jnp.float32) - 0.5
  maps = jnp.concatenate([x, y, x * x + y * y, x * y], axis=-1)
  mean_x, mean_y, power, cross = jnp.split(_smooth(maps), 4, axis=-1)
  power, cross = power - mean_x**2 - mean_y**2, cross - mean_x * mean_y
  mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
  luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
  contrast = (2 * cross + _C2) / (power + _C2)
  return jnp.mean(luminance * contrast, axis=(2, 3))


def _smooth(x: Array) -> Array:
  """Gaussian means over the valid region: [b h w c] -> [b h-10 w-10 c].

  Eleven shifted sums an axis: exact in float32 on every backend, where the
  convolutions of accelerators round their inputs.
  """
  for axis in (1, 2):
    size = x.shape[axis] - _SIZE + 1
    x = sum(
      weight * jax.lax.slice_in_dim(x, i, i + size, axis=axis)
      for i, weight in enumerate(_WINDOW)
    )
  return x
