"""Halton-MaskGIT: positions far apart, in a fixed order (arXiv:2503.17076)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.samplers import _reveal
from vq_jax.samplers._run import Run, only
from vq_jax.steps import Schedule, masks_left
from vq_jax.types import Array, Key, Model

NEEDS = _reveal.NEEDS


def order(h: int, w: int) -> np.ndarray:
  """Raster numbers [h * w] of all cells, as the Halton sequence meets them.

  Rows are in base 2, columns in base 3 and cells that were met before are
  skipped, as released; but in integers, and with as many points as it takes.
  """
  points = 4 * h * w
  while True:
    numbers = np.arange(1, points + 1)
    cells = w * _inverse(numbers, 2, h) + _inverse(numbers, 3, w)
    found, first = np.unique(cells, return_index=True)
    if len(found) == h * w:
      return found[np.argsort(first)]
    points *= 2


def _inverse(numbers: np.ndarray, base: int, side: int) -> np.ndarray:
  """The radical inverse in [0, 1), as a cell of `side`."""
  mirrored, scale = np.zeros_like(numbers), 1
  while numbers.any():
    mirrored = mirrored * base + numbers % base
    numbers, scale = numbers // base, scale * base
  return mirrored * side // scale


def sides(canvas: tuple[int, int] | None, n: int) -> tuple[int, int]:
  """(H, W) of n tokens; ValueError if the canvas has another number of them."""
  h, w = canvas or (math.isqrt(n), math.isqrt(n))
  if h * w != n:
    raise ValueError(
      f"{n} tokens are no square, and not {h} x {w}: tell the sampler 'halton'"
      " the canvas, (H, W) in tokens."
    )
  return h, w


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  schedule: Schedule = "arccos",
  roll: bool = False,
  canvas: tuple[int, int] | None = None,
) -> Run:
  """Each call reveals the next masked tokens of the order, for good.

  Tokens of one call are spread evenly over the image, so that they depend on
  each other as little as possible.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has what is in `NEEDS`, and ends in masks.
    shape: (b, n).
    steps: network calls, of which every one reveals a token and the last all
      that are left.
    known: ids [b n] that must not change, with `prior.vocab_size` where free;
      the free ones are spread over the calls.
    schedule: how many masks are left: a name of `steps.rate`, or how many
      tokens each call reveals.
    roll: each image starts at a place of its own in the order, which goes on
      from its start where it ends.
    canvas: (H, W) in tokens, H * W = n; None is a square.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`.

  Raises:
    ValueError: the prior does not end in masks, steps < 1, there is no such
      schedule, or n is another number than that of the canvas.
  """
  b, n = shape
  rank = np.argsort(order(*sides(canvas, n)))  # [n]
  key, key_roll = jax.random.split(key)
  shift = jax.random.randint(key_roll, (b, 1), 0, n) if roll else 0
  late = -((rank + shift) % n).astype(jnp.float32)
  start = _reveal.masks(prior, shape, known)
  left = jnp.asarray(masks_left(schedule, n, steps, np.ceil))
  left = left[jnp.sum(start == prior.vocab_size, 1)].T  # [steps b]

  def change(key: Key, z: Array, log_probs: Array, left: Array) -> Array:
    count = jnp.sum(z == prior.vocab_size, 1) - left
    what = jax.random.gumbel(key, log_probs.shape)
    return _reveal.reveal(z, late, log_probs, count, 0.0, what)

  return _reveal.descend(key, model, prior, start, change, left)


sample = only("ids", run)
trajectory = only("states", run)
