"""The Gaussian chain: its schedule, its posterior, its steps."""

import math

import embedded
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import schedules
from vq_jax.priors import _gaussian, lcmd

TIMES = (0.1, 0.25, 0.5, 0.75, 0.9)


@pytest.mark.parametrize(
  ("shift", "expected"),
  [
    (1.0, (3.69, 1.76, 0.0, -1.76, -3.69)),
    (0.5, (2.30, 0.38, -1.39, -3.15, -5.07)),
    (0.25, (0.91, -1.01, -2.77, -4.54, -6.46)),
    (0.1, (-0.92, -2.84, -4.61, -6.37, -8.29)),
  ],
)
def test_log_snr_is_that_of_the_table(shift, expected):
  """And its ratio to the cosine's, of one sigma to one alpha, is the shift."""
  found = schedules.shifted_cosine(jnp.array(TIMES), shift)
  np.testing.assert_allclose(found, expected, atol=0.006)
  alpha, sigma = embedded.levels(found)
  ratio = sigma / alpha * shift
  np.testing.assert_allclose(ratio, np.tan(np.pi / 2 * np.array(TIMES)), 1e-5)


@pytest.mark.parametrize("shift", [0.1, 1.0, 5.0])
def test_time_and_log_snr_are_each_others_inverse(shift):
  prior = lcmd.Prior(5, shift=shift)
  t = jnp.linspace(0.0, 1.0, 33)
  log_snr = prior.log_snr(t)
  assert np.isfinite(log_snr).all() and (np.diff(log_snr) < 0).all()
  np.testing.assert_allclose(prior.time(log_snr), t, atol=2e-6)


def test_variance_is_preserved_and_the_ends_are_clean_and_noise():
  prior = lcmd.Prior(5, shift=0.3)
  log_snr = prior.log_snr(jnp.linspace(0.0, 1.0, 101))
  alpha, sigma = _gaussian.levels(log_snr)
  np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
  np.testing.assert_allclose(
    np.stack([alpha, sigma]), embedded.levels(log_snr), rtol=2e-5
  )
  assert sigma[0] < 0.01 and alpha[-1] < 0.001


PAIRS = [(0.0, 0.1), (0.2, 0.7), (0.45, 0.5), (0.9, 1.0)]


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_posterior_is_the_product_of_likelihood_and_prior(s, t):
  """Mean and variance of q(z_s | x) q(z_t | z_s), integrated over z_s."""
  prior, x, z = lcmd.Prior(5), 0.8, -0.4
  (a_s, v_s), (a_t, v_t) = (
    embedded.levels(float(prior.log_snr(jnp.float32(end)))) for end in (s, t)
  )
  hop = a_t / a_s
  hop_variance = v_t**2 - hop**2 * v_s**2
  grid = a_s * x + v_s * np.linspace(-9, 9, 20_001)
  density = np.exp(
    -((grid - a_s * x) ** 2) / (2 * v_s**2)
    - (z - hop * grid) ** 2 / (2 * hop_variance)
  )
  density /= density.sum()
  mean = (density * grid).sum()
  variance = (density * (grid - mean) ** 2).sum()

  def move(fresh):
    ones = jnp.ones((1, 1, 1))
    times = (jnp.float32(t), jnp.float32(s))
    return prior.move(z * ones, x * ones, *times, fresh, 1.0)[0, 0, 0]

  np.testing.assert_allclose(move(0.0), mean, rtol=1e-3, atol=1e-5)
  spread = move(1.0) - move(0.0)
  np.testing.assert_allclose(spread**2, variance, rtol=5e-3)
  # The closed forms of arXiv:2107.00630, appendix A.
  closed = hop * v_s**2 / v_t**2 * z + a_s * hop_variance / v_t**2 * x
  np.testing.assert_allclose(mean, closed, rtol=1e-6)
  np.testing.assert_allclose(
    variance, hop_variance * v_s**2 / v_t**2, rtol=1e-5
  )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_of_no_length_changes_nothing(eta, key):
  prior = lcmd.Prior(5)
  z, clean, fresh = jax.random.normal(key, (3, 4, 2, 3))
  t = jnp.array([0.0, 0.3, 0.8, 1.0])
  found = prior.move(z, clean, t, t, fresh, eta)
  np.testing.assert_allclose(found, z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_every_eta_keeps_the_marginal(eta, s, t):
  """Var z_s = sigma_s^2 if the guess is right: arXiv:2010.02502, Lemma 1."""
  prior = lcmd.Prior(5)
  now, then = (prior.log_snr(jnp.float32(end)) for end in (t, s))
  zero = jnp.zeros((1, 1, 1))
  (alpha, sigma), (alpha_s, sigma_s) = map(_gaussian.levels, (now, then))
  kept = _gaussian.move(sigma + zero, zero, now, then, 0.0, eta)
  new = _gaussian.move(zero, zero, now, then, 1.0, eta)
  np.testing.assert_allclose(kept**2 + new**2, sigma_s**2, rtol=1e-4)
  mean = _gaussian.move(alpha + zero, 1.0 + zero, now, then, 0.0, eta)
  np.testing.assert_allclose(mean, alpha_s, rtol=1e-4)


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_forgetting_leads_from_one_marginal_to_the_next(s, t):
  prior = lcmd.Prior(5)
  then, now = (prior.log_snr(jnp.float32(end)) for end in (s, t))
  one, zero = jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1))
  (alpha_s, sigma_s), (alpha, sigma) = map(_gaussian.levels, (then, now))
  mean = _gaussian.forget(alpha_s * one, 0.0, then, now)
  np.testing.assert_allclose(mean, alpha, rtol=1e-5)
  kept = _gaussian.forget(sigma_s * one, 0.0, then, now)
  new = _gaussian.forget(zero, 1.0, then, now)
  np.testing.assert_allclose(kept**2 + new**2, sigma**2, rtol=1e-4)


def test_what_the_start_tells_is_the_divergence_of_two_normals():
  """By quadrature, where it is far from 0 and where float32 would lose it."""
  for log_snr, power in ((0.0, 0.5), (-6.0, 1 / (1 + math.exp(6)))):
    mean, var = math.sqrt(power) * 1.5, 1 - power
    grid = np.linspace(-12, 12, 40_001)
    log_q = -((grid - mean) ** 2) / (2 * var) - 0.5 * math.log(var)
    q = np.exp(log_q) / math.sqrt(2 * math.pi)
    expected = np.sum(q * (log_q + grid**2 / 2)) * (grid[1] - grid[0])
    clean = jnp.full((1, 1, 1), 1.5)
    found = _gaussian.start_nats(clean, jnp.float32(log_snr))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
