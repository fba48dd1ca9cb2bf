"""Halton-MaskGIT: the order, how many of it are shown, and when."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import pipeline
from vq_jax.priors import absorbing
from vq_jax.samplers import halton
from vq_jax.types import Model

K = 5
PRIOR = absorbing.Prior(K)
UNIFORM = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))


def trajectory(key, shape, **options):
  run = lambda key: halton.trajectory(key, UNIFORM, PRIOR, shape, **options)  # noqa: E731
  return np.asarray(jax.jit(run)(key))


def test_the_first_positions_are_the_published_ones():
  first = [(8, 5), (4, 10), (12, 1), (2, 7), (10, 12)]
  first += [(6, 3), (14, 8), (1, 14), (9, 0), (5, 5)]
  order = halton.order(16, 16)[:10]
  np.testing.assert_array_equal(np.stack(divmod(order, 16), 1), first)


@pytest.mark.parametrize(
  ("h", "w"), [(1, 1), (1, 9), (7, 5), (16, 16), (24, 32), (81, 3), (33, 64)]
)
def test_every_cell_comes_once(h, w):
  np.testing.assert_array_equal(np.sort(halton.order(h, w)), np.arange(h * w))


def test_the_order_is_that_of_the_sequence():
  """By fractions of decimal points, one after the other, with no array."""

  def inverse(number, base):
    total, weight = 0.0, 1.0 / base
    while number:
      number, digit = divmod(number, base)
      total, weight = total + digit * weight, weight / base
    return total + 1e-12

  h, w = 6, 10
  seen = []
  for i in range(1, 3000):
    cell = int(inverse(i, 2) * h) * w + int(inverse(i, 3) * w)
    if cell not in seen:
      seen.append(cell)
  np.testing.assert_array_equal(halton.order(h, w), seen)


def test_each_call_shows_the_next_ones(key):
  """The published counts of 16 x 16 in 8 calls."""
  states = trajectory(key, (1, 256), steps=8)[:, 0]
  counts = (states < K).sum(-1)
  shown = [0, 20, 41, 62, 85, 110, 138, 173, 256]
  np.testing.assert_array_equal(counts, shown)
  order = halton.order(16, 16)
  for state, count in zip(states, shown, strict=True):
    assert (state[order[:count]] < K).all() and (
      state[order[count:]] == K
    ).all()


def test_with_fewer_calls_than_tokens_each_call_shows_one():
  """max(i, int(share n)): small shares are made up for at the end."""
  for n, steps in ((16, 16), (16, 9), (25, 20)):
    side = math.isqrt(n)
    states = trajectory(jax.random.key(0), (1, n), steps=steps)
    counts = (states[1:, 0] < K).sum(-1)
    share = 1 - np.arccos(np.arange(1, steps + 1) / steps) / (np.pi / 2)
    expected = np.maximum(
      np.arange(1, steps + 1), (share * n + 1e-9).astype(int)
    )
    np.testing.assert_array_equal(counts, expected)
    assert side * side == n


def test_known_tokens_are_passed_over(key):
  """The free ones come in the same order, spread over all calls."""
  canvas, n = (3, 4), 12
  known = jnp.where(jnp.arange(n) % 3 == 0, 2, K)[None]
  states = trajectory(key, (1, n), steps=4, known=known, canvas=canvas)[:, 0]
  order = [i for i in halton.order(*canvas) if i % 3]
  counts = (states < K).sum(-1) - 4
  assert counts[-1] == 8 and (np.diff(counts) >= 1).all()
  for state, count in zip(states, counts, strict=True):
    np.testing.assert_array_equal(state[order[:count]] < K, True)
    np.testing.assert_array_equal(state[order[count:]] == K, True)


def test_rolled_images_start_at_places_of_their_own(key):
  """Each goes through the order from there, and around."""
  n, b = 16, 60
  states = trajectory(key, (b, n), steps=n, roll=True, schedule="uniform")
  masked = (states == K).sum(0)  # [b n], 1 for what comes first.
  order = halton.order(4, 4)
  starts = set()
  for image in masked:
    sequence = image[order]
    start = int(np.argmin(sequence))
    np.testing.assert_array_equal(
      np.roll(sequence, -start), np.arange(1, n + 1)
    )
    starts.add(start)
  assert len(starts) > 10


def test_the_pipeline_tells_the_canvas(key):
  """And a config may not; without it, only a square has sides."""
  section = {"name": "halton", "steps": 2}
  draw = pipeline.build_sampler(section, PRIOR, "trajectory", canvas=(2, 3))
  states = draw(key, UNIFORM, PRIOR, (1, 6))
  shown = np.flatnonzero(states[1, 0] < K)
  np.testing.assert_array_equal(
    shown, np.sort(halton.order(2, 3)[: len(shown)])
  )
  pipeline.build_sampler({"name": "purity", "steps": 2}, PRIOR, canvas=(2, 3))
  with pytest.raises(ValueError, match="no key 'canvas'"):
    pipeline.build_sampler(section | {"canvas": (2, 3)}, PRIOR)
  for canvas in (None, (2, 2)):
    with pytest.raises(ValueError, match="6 tokens are no square"):
      halton.sample(key, UNIFORM, PRIOR, (1, 6), steps=2, canvas=canvas)
