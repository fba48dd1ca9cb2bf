"""Closed forms of the keep / uniform / mask chain against dense matrices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import schedules, transitions
from vq_jax.transitions import Kernel

K = 5


def mixed(t):
  """A schedule with real uniform noise: 10% of the lost mass is uniform."""
  return Kernel(1.0 - t, 0.1 * t * (1.0 - t), t - 0.1 * t * (1.0 - t))


def released(t):
  """Uniform noise of one in a million, as in published checkpoints."""
  keep = 0.99999 - 0.99998 * t
  return Kernel(keep, 1e-6 + 0.0 * t, 1.0 - keep - 1e-6)


def absorbing(t):
  return transitions.absorbing(t)


def uniform(t):
  return Kernel(1.0 - t, t, 0.0 * t)


CHAINS = [mixed, released, absorbing, uniform]
PAIRS = [(0.0, 0.1), (0.1, 0.2), (0.2, 0.9), (0.0, 0.5), (0.85, 0.95)]


def kernel(chain, t):
  return chain(jnp.float32(t))


@pytest.mark.parametrize("chain", CHAINS)
def test_rows_sum_to_one(chain):
  for t in np.linspace(0, 0.99, 7):
    q = transitions.dense(kernel(chain, t), K)
    np.testing.assert_allclose(q.sum(1), 1.0, atol=1e-6)
    assert (q >= 0).all()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_steps_compose_to_the_cumulative_chain(chain, s, t):
  """Q_0s Q_st = Q_0t as matrices, and every step is a distribution."""
  step = transitions.between(kernel(chain, s), kernel(chain, t))
  assert min(float(p) for p in step) >= 0
  product = transitions.dense(kernel(chain, s), K) @ transitions.dense(step, K)
  expected = transitions.dense(kernel(chain, t), K)
  np.testing.assert_allclose(product, expected, atol=1e-6)


@pytest.mark.parametrize("chain", CHAINS)
def test_marginal_is_a_row_of_the_matrix(chain):
  probs = jax.random.dirichlet(jax.random.key(1), jnp.ones(K), (2, 3))
  k = kernel(chain, 0.4)
  expected = probs @ transitions.dense(k, K)[:K]
  np.testing.assert_allclose(
    jnp.exp(transitions.marginal(k, jnp.log(probs))), expected, atol=1e-6
  )


@jax.jit
def posterior(s, t, probs, z):
  """As probabilities."""
  return jnp.exp(transitions.posterior(s, t, jnp.log(probs), z))


def bayes(s, t, probs, z):
  """p(z_s | z_t) by enumeration of x and z_s, in float64."""
  q_s, q_t = (np.asarray(transitions.dense(k, K), np.float64) for k in (s, t))
  step = np.asarray(transitions.dense(transitions.between(s, t), K), np.float64)
  result = np.zeros(K + 1)
  for x, z_s in itertools.product(range(K), range(K + 1)):
    if q_t[x, z] > 0:
      result[z_s] += probs[x] * q_s[x, z_s] * step[z_s, z] / q_t[x, z]
    elif z_s == z:
      result[z_s] += probs[x]  # z cannot come from x: it says nothing of x.
  return result


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_posterior_is_bayes_rule(chain, s, t):
  reachable = range(K if chain is uniform else K + 1)
  z = jnp.array([list(reachable)])
  probs = jax.random.dirichlet(jax.random.key(2), jnp.ones(K), z.shape)
  s, t = kernel(chain, s), kernel(chain, t)
  found = posterior(s, t, probs, z)[0]
  expected = [
    bayes(s, t, np.asarray(probs[0, i], np.float64), int(z[0, i]))
    for i in range(z.shape[1])
  ]
  np.testing.assert_allclose(found, expected, atol=1e-6)
  np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)


def test_posterior_keeps_the_sum_of_unnormalised_probabilities():
  """Truncated predictions are not renormalised; the posterior must not be."""
  probs = 0.3 * jax.random.dirichlet(jax.random.key(3), jnp.ones(K), (1, 2))
  z = jnp.array([[K, 1]])
  s, t = kernel(mixed, 0.3), kernel(mixed, 0.6)
  total = posterior(s, t, probs, z).sum(-1)
  np.testing.assert_allclose(total, 0.3, atol=1e-6)


def test_posterior_takes_one_kernel_per_example():
  s, t = (mixed(jnp.array(times)) for times in ([0.1, 0.4], [0.5, 0.6]))
  probs = jax.random.dirichlet(jax.random.key(4), jnp.ones(K), (2, 3))
  z = jnp.array([[K, 0, 1], [2, K, K]])
  both = posterior(s, t, probs, z)
  for i in range(2):
    one = posterior(
      Kernel(*(p[i] for p in s)), Kernel(*(p[i] for p in t)), probs[i], z[i]
    )
    np.testing.assert_allclose(both[i], one, atol=1e-7)


@pytest.mark.parametrize("chain", CHAINS)
def test_corrupt_draws_from_the_marginal(chain, key):
  x = jnp.full((200, 100), 2)
  k = kernel(chain, 0.5)
  z = transitions.corrupt(key, k, x, K)
  found = np.bincount(np.asarray(z).ravel(), minlength=K + 1) / x.size
  expected = transitions.dense(k, K)[2]
  np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(x.size))


@pytest.mark.parametrize("name", schedules.MASKED)
def test_schedules_start_clean_end_masked_and_rise(name):
  values = np.asarray(schedules.masked(name)(jnp.linspace(0, 1, 101)))
  assert values[0] == 0.0
  np.testing.assert_allclose(values[-1], 1.0, atol=1e-7)
  assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("name", schedules.MASKED)
def test_slope_is_the_difference_quotient(name):
  ratio, t, h = schedules.masked(name), jnp.array([0.2, 0.5, 0.8]), 1e-2
  quotient = (ratio(t + h) - ratio(t - h)) / (2 * h)
  np.testing.assert_allclose(schedules.slope(ratio, t), quotient, atol=1e-3)


def test_unknown_schedule_lists_the_choices():
  with pytest.raises(ValueError, match=r"Did you mean 'cosine'.*linear"):
    schedules.masked("cosin")


def test_grid_descends_from_one_to_zero():
  grid = schedules.uniform_grid(7)
  assert grid.shape == (8,) and grid[0] == 1 and grid[-1] == 0
  with pytest.raises(ValueError, match="at least 1 step"):
    schedules.uniform_grid(0)
