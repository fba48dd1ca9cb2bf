"""Masked diffusion by other names: where MD4, MDLM and ours must agree."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax.priors import absorbing, maskgit
from vq_jax.types import Model

K, N = 5, 3
# alpha and its slope as arXiv:2406.04329 has them, and our name.
MD4 = {
  "linear": (lambda t: 1 - t, lambda t: -np.ones_like(t)),
  "square": (lambda t: 1 - t**2, lambda t: -2 * t),
  "poly3": (lambda t: 1 - t**3, lambda t: -3 * t**2),
  "cosine": (
    lambda t: 1 - np.cos(math.pi / 2 * (1 - t)),
    lambda t: -math.pi / 2 * np.sin(math.pi / 2 * (1 - t)),
  ),
}
SCHEDULES = [*MD4, "arccos", "poly0.5", "pow2", "exp16", "log64", "ln148.4"]


def example(b=8):
  """x, z, t, log p, and the masked log p(x) of each image in float64."""
  rng = np.random.default_rng(3)
  x = rng.integers(K, size=(b, N))
  z = np.where(rng.uniform(size=x.shape) < 0.6, K, x)
  t = rng.uniform(0.05, 0.95, b)
  log_probs = np.asarray(jax.nn.log_softmax(rng.normal(size=(b, N, K))))
  told = np.take_along_axis(log_probs, x[..., None], -1)[..., 0]
  total = np.sum(told.astype(np.float64) * (z == K), 1)
  return x, z, t, jnp.float32(log_probs), total


def bits(schedule, t, s=None, time_steps=None):
  """Our ELBO term of the example, bits per token [b]."""
  x, z, _, log_probs, _ = example()
  prior = absorbing.Prior(K, schedule=schedule, time_steps=time_steps)
  t = jnp.float32(t)
  s = t if s is None else jnp.float32(s)
  return np.asarray(prior.cost(log_probs, z, x, s, t)[1])


@pytest.mark.parametrize("name", MD4)
def test_continuous_term_is_that_of_md4(name):
  """alpha' / (1 - alpha) sum log p(x), on the same x, z, t."""
  alpha, slope = MD4[name]
  *_, t, _, total = example()
  nats = slope(t) / (1 - alpha(t)) * total
  expected = nats / (N * math.log(2))
  np.testing.assert_allclose(bits(name, t), expected, rtol=2e-5)
  # Theirs stops at a ten-thousandth, where it needs a reconstruction term; the
  # weights differ by as much, over the masked share.
  stopped = (1 - 2e-4) * slope(t) / (1 - (1 - 2e-4) * alpha(t) - 1e-4)
  ratio = stopped * total / nats
  assert (np.abs(ratio - 1) < 2e-4 / (1 - alpha(t))).all()


@pytest.mark.parametrize("name", MD4)
def test_discrete_term_is_that_of_md4(name):
  """T expm1(logit alpha_t - logit alpha_s) alpha_s, s = t - 1/T > 0."""
  alpha, _ = MD4[name]
  *_, t, _, total = example()
  steps = 10
  t = (np.maximum(np.floor(t * steps), 1) + 1) / steps
  s = t - 1 / steps
  t = np.minimum(t, 1 - 1e-9)  # logit 0.
  logit = lambda p: np.log(p / (1 - p))  # noqa: E731
  gap = logit(alpha(t)) - logit(alpha(s))
  expected = steps * np.expm1(gap) * alpha(s) * total / (N * math.log(2))
  found = bits(name, t, s, time_steps=steps)
  np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_continuous_term_is_that_of_mdlm():
  """sigma' / expm1(sigma), sigma = -log(1 - (1 - eps) t): 1 / t exactly."""
  *_, t, _, total = example()
  keep = 1 - (1 - 1e-3) * t
  sigma, slope = -np.log(keep), (1 - 1e-3) / keep
  expected = -total * slope / np.expm1(sigma) / (N * math.log(2))
  np.testing.assert_allclose(bits("linear", t), expected, rtol=2e-5)


X = np.array([0, 3, 1])
PATTERNS = np.array(list(itertools.product([False, True], repeat=N)))  # [8 n]
STATES = np.where(PATTERNS, K, X)


def table():
  """A denoiser that looks at every visible token, and asks for no time."""
  w, v = jax.random.normal(jax.random.key(4), (2, K + 1, K))
  return Model(
    lambda z, t: jax.nn.log_softmax(w[z] + v[z].mean(1, keepdims=True))
  )


def expected_bits(schedule, time_steps=None, grid=4096):
  """E[bits] of the image X, exactly over masks, by quadrature over time."""
  prior = absorbing.Prior(K, schedule=schedule, time_steps=time_steps)
  s, t = prior.times((jnp.arange(grid) + 0.5) / grid)
  log_probs = table().denoise(STATES, None)

  def one(s, t):
    m = prior.kernel(t).mask
    law = jnp.prod(jnp.where(PATTERNS, m, 1 - m), 1)
    ends = jnp.full(len(STATES), s), jnp.full(len(STATES), t)
    x = jnp.broadcast_to(X, STATES.shape)
    return law @ prior.cost(log_probs, STATES, x, *ends)[1]

  return float(jax.jit(lambda: jnp.mean(jax.vmap(one)(s, t)))())


def random_orders():
  """The mean over counts of the mean cross-entropy of so many masks."""
  log_probs = np.asarray(table().denoise(STATES, None))
  nats = -np.take_along_axis(log_probs, X[None, :, None], -1)[..., 0]
  mean = np.sum(nats * PATTERNS, 1) / np.maximum(PATTERNS.sum(1), 1)
  by_count = [mean[PATTERNS.sum(1) == k].mean() for k in range(1, N + 1)]
  return np.mean(by_count) / math.log(2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_does_not_depend_on_the_schedule(schedule):
  """arXiv:2406.04329: with no time told it is that of random orders."""
  np.testing.assert_allclose(
    expected_bits(schedule), random_orders(), rtol=3e-3
  )


def test_discrete_bounds_tend_to_it():
  """The gap falls as 1 / T."""
  gaps = [
    expected_bits("linear", steps) - random_orders() for steps in (4, 16, 64)
  ]
  assert min(gaps) > 0 or max(gaps) < 0
  for coarse, fine in itertools.pairwise(np.abs(gaps)):
    np.testing.assert_allclose(coarse / fine, 4.0, rtol=0.25)


def test_maskgit_is_measured_by_the_same_bound(key):
  prior = maskgit.Prior(K, bound_times=N)
  x = jnp.asarray(np.tile(X, (8000, 1)))
  found = np.asarray(jax.jit(prior.bits, static_argnums=1)(key, table(), x))
  error = found.std() / math.sqrt(len(found))
  assert abs(found.mean() - random_orders()) < 4 * error
