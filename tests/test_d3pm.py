"""D3PM: brute force over dense matrices, and what its chain is not."""

import math

import chains
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import schedules, transitions
from vq_jax.priors import _replaced, absorbing, d3pm
from vq_jax.samplers import ancestral, events, fewer_tokens, purity
from vq_jax.types import Model

K, T = 5, 8


def released_betas(steps):
  """Of the authors' cosine schedule, float64."""
  f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2)
  return np.minimum(1 - f[1:] / f[:-1], 0.999)


def test_cosine_is_that_of_the_released_code():
  """But for the last step, which there keeps a thousandth."""
  for steps in (10, 1000):
    keep = np.cumprod(1 - released_betas(steps))
    kernel = schedules.replaced("cosine")(jnp.arange(1, steps + 1) / steps)
    np.testing.assert_allclose(kernel.keep[:-1], keep[:-1], rtol=1e-4)
    np.testing.assert_allclose(kernel.uniform[:-1], 1 - keep[:-1], rtol=1e-4)
    assert kernel.keep[-1] == 0 and keep[-1] < 0.002


@pytest.mark.parametrize("name", schedules.REPLACED)
def test_a_chain_forgets_and_never_masks(name):
  kernel = schedules.replaced(name)(jnp.linspace(0.0, 1.0, 101))
  np.testing.assert_allclose(kernel.keep + kernel.uniform, 1.0, atol=1e-6)
  assert [float(p[0]) for p in kernel] == [1, 0, 0]
  assert (np.diff(kernel.keep) < 0).all() and kernel.keep[-1] == 0
  assert (kernel.mask == 0).all()


def matrices(name):
  """One-step and cumulative matrices [T, K, K] and [T + 1, K, K], float64."""
  keep = np.asarray(schedules.replaced(name)(jnp.arange(T + 1) / T).keep)
  rates = 1 - keep[1:].astype(np.float64) / keep[:-1]
  one = [(1 - r) * np.eye(K) + r / K for r in rates]
  total = [np.eye(K)]
  for q in one:
    total.append(total[-1] @ q)
  return np.array(one), np.array(total)


@pytest.mark.parametrize("name", schedules.REPLACED)
def test_loss_is_the_divergence_of_dense_matrices(name):
  """Every x, z and step: KL(q(z_s | z_t, x) || sum_x q(z_s | z_t, x) p(x))."""
  one, total = matrices(name)
  prior = d3pm.Prior(K, schedule=name, time_steps=T, hybrid=0.01)
  x, z = (a.reshape(-1, 1) for a in np.meshgrid(range(K), range(K)))
  rng = np.random.default_rng(2)
  log_probs = jax.nn.log_softmax(rng.normal(size=(K * K, 1, K)))
  probs = np.exp(np.asarray(log_probs, np.float64))[:, 0]
  cost = jax.jit(prior.cost)
  for i in range(T):
    s, t = (jnp.full(K * K, end) for end in chains.ends(i, T))
    loss, bits = cost(log_probs, z, x, s, t)
    for j in range(K * K):
      # Rows: the code at s of every clean code.
      law = total[i] * one[i][:, z[j, 0]] / total[i + 1][:, z[j, 0], None]
      truth, guess = law[x[j, 0]], probs[j] @ law
      seen = truth > 0
      kl = np.sum(truth[seen] * np.log(truth[seen] / guess[seen]))
      entropy = -np.log(probs[j, x[j, 0]])
      if i == 0:
        np.testing.assert_allclose(kl, entropy, rtol=1e-9)
      np.testing.assert_allclose(
        bits[j], T * kl / math.log(2), rtol=1e-4, atol=1e-4
      )
      np.testing.assert_allclose(
        loss[j], T * (kl + 0.01 * entropy), rtol=1e-4, atol=1e-4
      )


def test_absorbing_variant_is_absorbing_diffusion():
  """Steps that mask with 1 / (T - i): the divergence is a T-th of its bound."""
  x, z = (a.reshape(-1, 1) for a in np.meshgrid(range(K), range(K + 1)))
  possible = ((z == x) | (z == K))[:, 0]
  x, z = x[possible], z[possible]
  rng = np.random.default_rng(5)
  log_probs = jax.nn.log_softmax(rng.normal(size=(len(x), 1, K)))
  probs = np.exp(np.asarray(log_probs, np.float64))[:, 0]
  prior = absorbing.Prior(K, time_steps=T)
  total = np.eye(K + 1)
  for i in range(T):
    one = np.eye(K + 1)
    one[:K] *= 1 - 1 / (T - i)
    one[:K, K] += 1 / (T - i)
    after = total @ one
    s, t = (jnp.full(len(x), end) for end in chains.ends(i, T))
    loss, bits = prior.cost(log_probs, z, x, s, t)
    np.testing.assert_array_equal(loss, bits)
    for j in range(len(x)):
      reach = after[:K, z[j, 0]]  # From every clean code.
      if not reach[x[j, 0]]:
        continue
      law = total[:K] * one[:, z[j, 0]]
      law = np.divide(law, reach[:, None], where=reach[:, None] > 0, out=law)
      weight = probs[j] * (reach > 0)
      truth, guess = law[x[j, 0]], weight @ law / weight.sum()
      seen = truth > 0
      kl = np.sum(truth[seen] * np.log(truth[seen] / guess[seen]))
      np.testing.assert_allclose(
        bits[j], T * kl / math.log(2), rtol=1e-4, atol=1e-4
      )
    total = after


@pytest.mark.parametrize("name", schedules.REPLACED)
def test_posterior_is_that_of_a_chain_whose_mask_rate_is_zero(name):
  """The same as with a mask of probability 1e-9."""
  s, t = (schedules.replaced(name)(jnp.float32(end)) for end in (0.3, 0.8))
  rng = np.random.default_rng(0)
  log_probs = jax.nn.log_softmax(rng.normal(size=(1, 3, K)))
  z = jnp.array([[0, 3, 3]])
  posterior = jax.jit(transitions.posterior)
  found = posterior(s, t, log_probs, z)
  masks = [
    transitions.Kernel(p.keep, p.uniform, jnp.float32(m))
    for p, m in ((s, 1e-9), (t, 2e-9))
  ]
  other = posterior(*masks, log_probs, z)
  np.testing.assert_allclose(found[..., :K], other[..., :K], atol=1e-5)
  assert (found[..., K] < -1e8).all()
  np.testing.assert_allclose(jnp.exp(found).sum(-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", schedules.REPLACED)
def test_bound_of_an_exact_denoiser_is_the_entropy(name):
  """Summed over all steps, codes and states, by enumeration."""
  law, denoiser = chains.toy_law(K)
  prior = d3pm.Prior(K, schedule=name, time_steps=T)
  x, z = (a.reshape(-1, 1) for a in np.meshgrid(range(K), range(K)))
  model = denoiser(prior)
  _, matrix = matrices(name)

  @jax.jit
  def bits(s, t):
    return prior.cost(model.denoise(z, t), z, x, s, t)[1]

  total = float(_replaced.start_bits(prior))
  assert total < 1e-6
  for i in range(T):
    s, t = (jnp.full(K * K, end) for end in chains.ends(i, T))
    odds = law[x[:, 0]] * matrix[i + 1][x[:, 0], z[:, 0]]
    total += odds @ np.asarray(bits(s, t), np.float64) / T
  np.testing.assert_allclose(total, -np.sum(law * np.log2(law)), atol=1e-4)


def test_loss_estimates_the_bound(key):
  """Without the cross-entropy beside it."""
  x = jnp.tile(jnp.array([[0, 3, 1, 4]]), (4000, 1))
  w = jax.random.normal(key, (K + 1, K))
  w += 3 * jnp.eye(K + 1, K)
  model = Model(lambda z, t: jax.nn.log_softmax(w[z]))
  prior = d3pm.Prior(K, time_steps=T, hybrid=0.0, bound_times=T)

  @jax.jit
  def both(key):
    return prior.loss(key, model, x), prior.bits(key, model, x)

  (loss, (metrics, _)), bits = both(key)
  np.testing.assert_allclose(
    loss / math.log(2), metrics["bits_per_token"], rtol=1e-5
  )
  np.testing.assert_allclose(loss / math.log(2), bits.mean(), rtol=0.05)


def test_ancestral_sampling_has_the_law_of_the_codes(key):
  """With an exact denoiser, at a stride that does not divide T; chi-square."""
  law, denoiser = chains.toy_law(K)
  prior = d3pm.Prior(K, time_steps=T)
  count = 20_000
  draw = jax.jit(
    lambda key: ancestral.sample(
      key, denoiser(prior), prior, (count, 1), steps=3
    )
  )
  found = np.bincount(np.asarray(draw(key)).ravel(), minlength=K + 1)
  assert found[K] == 0
  chi = np.sum((found[:K] - count * law) ** 2 / (count * law))
  assert chi < K - 1 + 4 * math.sqrt(2 * (K - 1))


def test_known_codes_stay(key):
  known = jnp.tile(jnp.where(jnp.arange(6) < 2, 1, K), (4, 1))
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  prior = d3pm.Prior(K, time_steps=T)
  draw = jax.jit(
    lambda key, known: ancestral.sample(
      key, model, prior, (4, 6), steps=3, known=known
    )
  )
  ids = draw(key, known)
  np.testing.assert_array_equal(ids[:, :2], 1)
  assert (ids < K).all()


@pytest.mark.parametrize("module", [fewer_tokens, purity, events])
def test_samplers_of_masks_refuse_it(module, key):
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  with pytest.raises(ValueError, match=r"masks.*d3pm"):
    module.sample(key, model, d3pm.Prior(K), (2, 4), steps=2)


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match="Choices: cosine, linear"):
    d3pm.Prior(K, schedule="square")
  with pytest.raises(ValueError, match="at least 2"):
    d3pm.Prior(K, time_steps=1)
