"""VQ-Diffusion: enumeration, and the bound it shares."""

import math

import chains
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import schedules, transitions
from vq_jax.priors import _importance, _replaced, absorbing, vq_diffusion
from vq_jax.types import Model

K = 5
CHAINS = [*schedules.CHAINS, *schedules.MASKED]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("steps", [2, 7, 100])
def test_chains_are_distributions_that_only_forget(name, steps):
  times = jnp.linspace(0.0, 1.0, 3 * steps + 1)
  kernel = schedules.chain(name, steps)(times)
  np.testing.assert_allclose(sum(kernel), 1.0, atol=1e-6)
  assert [float(p[0]) for p in kernel] == [1, 0, 0]
  assert (np.diff(kernel.keep) < 0).all() and kernel.keep[-1] < 1e-5
  assert min(float(p.min()) for p in kernel) >= 0


@pytest.mark.parametrize("name", ["alpha1", "mixture"])
@pytest.mark.parametrize("jumps", [1, 3, 12])
def test_reverse_steps_compose_to_the_forward_marginals(name, jumps, key):
  """With an exact denoiser, whatever the stride: chi-square at every stop."""
  law, denoiser = chains.toy_law(K)
  prior = vq_diffusion.Prior(K, schedule=name, time_steps=12)
  count = 20_000
  z = prior.start(key, None, (count, 1))
  grid = schedules.uniform_grid(jumps)
  model = denoiser(prior)
  reverse = jax.jit(lambda k, z, t, s: prior.reverse(k, model, z, t, s))
  for i in range(jumps):
    z = reverse(jax.random.fold_in(key, i), z, grid[i], grid[i + 1])
    found = np.bincount(np.asarray(z).ravel(), minlength=K + 1)
    dense = transitions.dense(prior.kernel(grid[i + 1]), K)
    expected = count * (law @ np.asarray(dense, np.float64)[:K])
    seen = expected > 1
    chi = ((found - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi < seen.sum() + 4 * math.sqrt(2 * seen.sum())
    assert found[~seen].sum() <= 8


@pytest.mark.parametrize("name", ["alpha1", "mixture", "cosine"])
def test_bound_of_an_exact_denoiser_is_the_entropy(name):
  """Summed over all steps, codes and states, by enumeration."""
  law, denoiser = chains.toy_law(K)
  prior = vq_diffusion.Prior(K, schedule=name, time_steps=9)
  x, z = (a.ravel() for a in np.meshgrid(range(K), range(K + 1)))

  @jax.jit
  def terms(s, t):
    log_probs = denoiser(prior).denoise(z[:, None], t)
    return prior.terms(log_probs, z[:, None], x[:, None], s, t).kl

  total = 0.0
  for index in range(9):
    s, t = (jnp.full(len(x), end) for end in chains.ends(index, 9))
    dense = np.asarray(transitions.dense(prior.kernel(t[0]), K), np.float64)
    kl = terms(s, t)
    possible = dense[x, z] > 0
    total += np.sum((law[x] * dense[x, z] * kl)[possible])
  bits = total / math.log(2) + float(_replaced.start_bits(prior))
  entropy = -np.sum(law * np.log2(law))
  # `start` is uniform over codes, the forward marginal is not quite.
  assert -1e-4 < bits - entropy < (0.05 if name == "mixture" else 1e-4)


@pytest.mark.parametrize("schedule", schedules.MASKED)
def test_its_bound_is_that_of_absorbing_diffusion(schedule, key):
  """Masks only, no replacement: the same estimate on the same noise."""
  x = jax.random.randint(key, (6, 8), 0, K)
  s, t = chains.ends(jnp.array([0, 1, 5, 9, 10, 11]), 12)
  ours = vq_diffusion.Prior(K, schedule=schedule, time_steps=12)
  theirs = absorbing.Prior(K, schedule=schedule, time_steps=12)
  z = theirs.corrupt(key, None, x, t)
  log_probs = jax.nn.log_softmax(jax.random.normal(key, (6, 8, K)))
  args = (log_probs, z, x, s, t)
  both = jax.jit(lambda *a: (ours.cost(*a)[1], theirs.cost(*a)[1]))
  np.testing.assert_allclose(*both(*args), rtol=2e-4, atol=1e-6)


def test_released_chain_has_nearly_that_bound(key):
  """One replacement in a million is all that separates alpha1 from it.

  As long as the network copies visible codes: it must, since a visible code may
  have been replaced, and absorbing diffusion does not ask.
  """
  w = jax.random.normal(key, (K,))
  copy = jnp.concatenate([40.0 * jnp.eye(K), w[None]])
  model = Model(lambda z, t: jax.nn.log_softmax(copy[z]))
  x = jax.random.randint(key, (500, 8), 0, K)
  ours = vq_diffusion.Prior(K, time_steps=20, bound_times=20)
  theirs = absorbing.Prior(K, time_steps=20, bound_times=20)
  gap = jax.jit(lambda k: ours.bits(k, model, x) - theirs.bits(k, model, x))(
    key
  )
  assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap)) + 1e-3
  assert gap.std() / math.sqrt(len(gap)) < 0.1


def test_loss_is_unbiased_whatever_the_probabilities(key):
  """Importance sampling changes the variance of the loss, not its mean."""
  model = Model(
    lambda z, t: jax.nn.log_softmax(jnp.cos(z[..., None] + jnp.arange(K)))
  )
  x = jax.random.randint(key, (2000, 4), 0, K)
  prior = vq_diffusion.Prior(K, time_steps=6, auxiliary=0.0)
  seen = _importance.Memory(
    jnp.array([1.0, 4.0, 9.0, 1.0, 0.3, 2.0]), jnp.full(6, 11.0)
  )
  estimate = jax.jit(lambda memory: prior.loss(key, model, x, memory=memory))
  loss, (metrics, memory) = estimate(seen)
  plain, (others, _) = estimate(prior.memory())
  np.testing.assert_allclose(loss, plain, rtol=0.05)
  np.testing.assert_allclose(
    metrics["bits_per_token"], others["bits_per_token"], rtol=0.05
  )
  np.testing.assert_allclose(
    loss / math.log(2), metrics["bits_per_token"], rtol=1e-5
  )
  assert memory.count.sum() == 66 + len(x)


def test_the_later_of_two_terms_is_remembered():
  old = _importance.Memory(jnp.ones(3), jnp.zeros(3))
  new = _importance.remember(
    old, jnp.array([2, 0, 2]), jnp.array([1.0, 2.0, 3.0])
  )
  np.testing.assert_allclose(new.history, [1.3, 1.0, 1.8], rtol=1e-6)
  np.testing.assert_array_equal(new.count, [1, 0, 2])


def test_float32_is_enough_for_many_codes_and_steps():
  """K = 16384, T = 1000: against Bayes' rule in float64, every branch."""
  k, steps = 16384, 1000
  prior = vq_diffusion.Prior(k, time_steps=steps)
  z = np.array([[k, 7, 7]])
  log_probs = np.random.default_rng(0).normal(0, 4, (1, 3, k))
  log_probs[0, 2, 7] = -60.0
  log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
  probs = np.exp(log_probs)
  for index in (0, 1, 500, 998, 999):
    found = np.asarray(
      chains.posterior(prior, np.array([index]), jnp.float32(log_probs), z)
    )
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, atol=2e-5)
    expected = float64_posterior(index, steps, probs[0], z[0])
    live = expected > 1e-30
    np.testing.assert_allclose(
      found[0][live], np.log(expected[live]), atol=2e-3
    )


def float64_posterior(index, steps, probs, z):
  """The released tables and closed forms (one-step), in float64."""
  k = probs.shape[-1]

  def table(i):
    if i < 0:
      return 1.0, 0.0, 0.0
    v = i / (steps - 1)
    keep, mask = (
      0.99999 * (1 - v) + 9e-6 * v,
      9e-6 * (1 - v) + 0.99999 * v,
    )
    return keep, 1e-6 / k, mask

  (keep_s, noise_s, mask_s), (keep_t, noise_t, mask_t) = (
    table(index - 1),
    table(index),
  )
  a = keep_t / keep_s
  c = 1 - (1 - mask_t) / (1 - mask_s)
  b = (noise_t - a * noise_s) / (keep_s + k * noise_s)
  result = np.zeros((len(z), k + 1))
  for i, (p, j) in enumerate(zip(probs, z, strict=True)):
    if j == k:
      result[i, :k] = c / mask_t * (keep_s * p + noise_s * p.sum())
      result[i, k] = mask_s / mask_t * p.sum()
    else:
      is_j = np.arange(k) == j
      r = p / (keep_t * is_j + noise_t)
      result[i, :k] = (a * is_j + b) * (keep_s * r + noise_s * r.sum())
  return result


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match=r"Did you mean 'alpha1'"):
    vq_diffusion.Prior(K, schedule="alpha")
  with pytest.raises(ValueError, match=r"importance, uniform"):
    vq_diffusion.Prior(K, draw="loud")
  with pytest.raises(ValueError, match="at least 2"):
    vq_diffusion.Prior(K, time_steps=1)
