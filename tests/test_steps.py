"""Schedules of mask counts: the best by brute force, and what they bound."""

import itertools

import numpy as np
import pytest
from joints import conditional, law_of

from vq_jax import steps


def compositions(n, parts):
  """Every way to reveal n tokens in that many calls, one or more a call."""
  for cuts in itertools.combinations(range(1, n), parts - 1):
    yield tuple(b - a for a, b in itertools.pairwise((0, *cuts, n)))


def price(losses, counts):
  """The bound: every call pays its tokens at the level that it finds."""
  masks, total = len(losses), 0.0
  for count in counts:
    total += count * losses[masks - 1] if count else 0.0
    masks -= count
  assert masks == 0
  return total


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_no_schedule_is_better(n):
  """Over all of them, whatever the losses; more calls never cost more."""
  losses = np.random.default_rng(n).exponential(size=n)
  for parts in range(1, n + 1):
    counts = steps.optimal(losses, parts)
    assert counts in set(compositions(n, parts))
    prices = [price(losses, other) for other in compositions(n, parts)]
    assert price(losses, counts) == pytest.approx(min(prices), rel=1e-12)
  rising = np.sort(losses)
  costs = [price(rising, steps.optimal(rising, s)) for s in range(1, n + 3)]
  assert (np.diff(costs) <= 1e-12).all()
  assert costs[-1] == pytest.approx(rising.sum())


def test_schedules_of_known_losses():
  """In closed form: sum_i c_i (c_i + c_i+1 + ..) = (n^2 + sum_i c_i^2) / 2 is
  least for equal counts; what costs nothing is revealed at once."""
  assert steps.optimal(range(1, 13), 4) == (3, 3, 3, 3)
  assert steps.optimal([0.0] * 5 + [1.0, 2.0, 3.0], 4) == (1, 1, 1, 5)
  assert steps.optimal([1.0, 2.0], 4) == (1, 1, 0, 0)
  with pytest.raises(ValueError, match="at least 1 step"):
    steps.optimal([1.0], 0)


def test_the_price_bounds_the_code_length_of_what_is_drawn():
  """With the exact model: E -log p_S(x) <= the price of the schedule, for the
  enumerated law p_S of each; a token a call reaches the entropy."""
  joint = np.random.default_rng(0).dirichlet(np.full(16, 0.5)).reshape([2] * 4)
  n, k = joint.ndim, joint.shape[0]
  losses = np.zeros(n)
  for masks in range(1, n + 1):
    subsets = list(itertools.combinations(range(n), masks))
    for x, hidden in itertools.product(np.ndindex(joint.shape), subsets):
      z = tuple(k if i in hidden else v for i, v in enumerate(x))
      p = conditional(joint, z)
      nats = -np.mean([np.log(p[i, x[i]]) for i in hidden])
      losses[masks - 1] += joint[x] * nats / len(subsets)
  entropy = -(joint * np.log(joint)).sum()
  assert price(losses, (1,) * n) == pytest.approx(entropy)
  for parts in range(1, n + 1):
    for counts in compositions(n, parts):
      law = law_of(joint, counts, lambda p: np.ones(n), lambda p: p)
      length = -(joint * np.log(law)).sum()
      assert entropy - 1e-9 <= length <= price(losses, counts) + 1e-9


@pytest.mark.parametrize("n, calls", [(64, 8), (64, 16), (16, 16), (5, 9)])
def test_cosine_is_that_of_maskgit(n, calls):
  """Its loop: the rounded ratio, and one token a call at least."""
  left, some = n, min(n, calls)
  expected = []
  for i in range(1, some + 1):
    left = max(min(left - 1, int(n * np.cos(np.pi / 2 * i / some))), 0)
    expected.append(left)
  got = np.asarray(steps.shares("cosine", n, calls)) * n
  np.testing.assert_allclose(got[:some], expected, atol=1e-4)
  assert expected[-1] == 0 and (got[some:] == 0).all()


def test_counts_become_shares_of_any_number_of_masks():
  got = steps.shares((1, 3, 0, 4), 8, 4)
  np.testing.assert_array_equal(got, [7 / 8, 0.5, 0.5, 0.0])
  np.testing.assert_array_equal(steps.shares([2, 6, 0, 8], 99, 4), got)
  for name in steps.NAMED:
    with pytest.raises(ValueError, match="at least 1 step"):
      steps.shares(name, 8, 0)


def test_rising_is_the_nearest_rising_sequence():
  """Its min-max formula: max_{a <= i} min_{b >= i} of the mean of a..b."""
  rng = np.random.default_rng(0)
  for n in (1, 2, 9):
    value, weight = rng.normal(size=n), rng.uniform(0.5, 2.0, size=n)

    def mean(a, b, value=value, weight=weight):
      return np.average(value[a : b + 1], weights=weight[a : b + 1])

    expected = [
      max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1))
      for i in range(n)
    ]
    np.testing.assert_allclose(steps.rising(value, weight), expected)
