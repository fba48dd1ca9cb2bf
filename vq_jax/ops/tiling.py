"""Windows that cover a canvas: where they begin, how often, how they fade."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vq_jax.types import Array


class Axis(NamedTuple):
  """Windows along one side of a canvas.

  Attributes:
    start: first position of each [m].
    real: False for a window that is there twice [m].
    cover: how many windows contain each position of the side.
  """

  start: Array
  real: Array
  cover: Array


def axis(
  side: int, window: int, stride: int, shift: Array | None = None
) -> Axis:
  """Windows at a stride that begin with the side, less `shift`, and end so."""
  last = side - window
  spare = 0 if shift is None else stride - 1  # The farthest shift.
  m = 1 + -(-(last + spare) // stride) if last else 1
  start = jnp.arange(m) * stride - (0 if shift is None else shift)
  start = jnp.clip(start, 0, last)
  real = jnp.concatenate([jnp.array([True]), start[:-1] < last])
  first = start[:, None]
  at = jnp.arange(side)
  inside = (first <= at) & (at < first + window) & real[:, None]
  return Axis(start, real, jnp.sum(inside, 0))


def chunks(corners: Array, real: Array, chunk: int) -> tuple[Array, Array]:
  """[m 2] and [m] -> [calls k 2] and [calls k], k <= chunk, filled up."""
  m = len(corners)
  calls = -(-m // chunk)
  k = -(-m // calls)
  pad = calls * k - m
  corners = jnp.pad(corners, ((0, pad), (0, 0)))
  real = jnp.pad(real, (0, pad))
  return corners.reshape(calls, k, 2), real.reshape(calls, k)


def fades(
  side: int, tile: int, overlap: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
  """Where tiles begin along a side [m], in tokens, and their weights.

  The weights [m, tile * factor] of the tiles that share a pixel sum to one.
  """
  last, stride = side - tile, tile - overlap
  starts = np.minimum(np.arange(-(-last // stride) + 1) * stride, last)
  at = (np.arange(tile * factor) + 0.5) / factor  # Of pixels, in tokens.
  ramp = np.clip((at - overlap / 4) / max(overlap / 2, 1e-6), 0.0, 1.0)
  weights = np.ones((len(starts), tile * factor), np.float32)
  weights[1:] *= ramp
  weights[:-1] *= ramp[::-1]
  places = (starts[:, None] * factor + np.arange(tile * factor)).ravel()
  total = np.bincount(places, weights.ravel())
  return starts, weights / total[places].reshape(weights.shape)
