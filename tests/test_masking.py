"""Choices of positions: exact counts, and the law of weighted draws."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.ops import masking


def test_the_highest_are_taken_among_the_allowed():
  scores = jnp.array([[3.0, 1.0, 3.0, 9.0], [0.0, 0.0, -5.0, 0.0]])
  among = jnp.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
  for count, expected in [
    ([2, 3], [[1, 0, 1, 0], [1, 1, 0, 1]]),
    ([1, 0], [[1, 0, 0, 0], [0, 0, 0, 0]]),
    ([9, 9], [[1, 1, 1, 0], [1, 1, 1, 1]]),
  ]:
    chosen = masking.highest(scores, among, jnp.array(count))
    np.testing.assert_array_equal(chosen, np.array(expected, bool))


def test_gumbel_top_k_is_sequential_drawing_without_replacement(key):
  """Chi-square over the 10 triples of 5 positions of very unlike weights, with
  a sixth that would always win but is not allowed."""
  weights, count = np.array([0.5, 0.2, 0.15, 0.1, 0.05]), 20_000
  expected = {}
  for order in itertools.permutations(range(5), 3):
    rest, prob = 1.0, 1.0
    for i in order:
      prob, rest = prob * weights[i] / rest, rest - weights[i]
    triple = tuple(sorted(order))
    expected[triple] = expected.get(triple, 0.0) + prob
  log_weights = jnp.append(jnp.log(weights), 99.0)
  chosen = masking.without_replacement(
    jnp.broadcast_to(log_weights, (count, 6)),
    jax.random.gumbel(key, (count, 6)),
    jnp.broadcast_to(jnp.arange(6) < 5, (count, 6)),
    jnp.full(count, 3),
  )
  chosen = np.asarray(chosen)
  assert not chosen[:, 5].any() and (chosen.sum(1) == 3).all()
  found = np.array(
    [chosen[:, list(triple)].all(1).sum() for triple in expected]
  )
  expected = count * np.array([*expected.values()])
  statistic = ((found - expected) ** 2 / expected).sum()
  assert statistic < 9 + 4 * math.sqrt(2 * 9)
