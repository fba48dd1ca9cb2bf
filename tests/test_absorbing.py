"""The absorbing prior: golden losses, bounds with closed forms, its algebra."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import schedules, transitions
from vq_jax.priors import absorbing
from vq_jax.types import Model

GOLDEN = pathlib.Path(__file__).parent / "golden"
K = 5
RELEASED = {
  "elbo": "elbo",
  "mlm": "mlm",
  "reweighted_elbo": "reweighted_released",
}


def table(n, seed=0):
  """A denoiser that looks at every visible token: W[z_i] + V[mean]."""
  w, v = jax.random.normal(jax.random.key(seed), (2, K + 1, K))

  def denoise(z, t):
    del t
    return jax.nn.log_softmax(w[z] + jnp.mean(v[z], 1, keepdims=True))

  return Model(denoise)


@pytest.mark.parametrize("case", ["ul_loss", "ul_loss_T16"])
@pytest.mark.parametrize("masking", ["random", "fixed"])
@pytest.mark.parametrize("kind", RELEASED)
def test_losses_of_the_released_code(case, masking, kind):
  """Values and gradients of the authors' three losses, on their noise."""
  g = np.load(GOLDEN / f"{case}.npz")
  steps = 256 if case == "ul_loss" else 16
  prior = absorbing.Prior(
    g["logits"].shape[-1], loss_weight=RELEASED[kind], time_steps=steps
  )
  z, x, t = g[f"{masking}_xt"], g["x0"], g["t"].astype(np.float32)

  def loss(logits):
    s, now = (t - 1) / steps, t / steps
    log_probs = jax.nn.log_softmax(logits)
    return tuple(v.mean() for v in prior.cost(log_probs, z, x, s, now))

  (value, bound), grad = (loss(g["logits"]), jax.grad(lambda v: loss(v)[0]))
  name = f"{masking}_{kind}"
  tolerance = {"rtol": 2e-5, "atol": 1e-5}
  np.testing.assert_allclose(value, g[f"{name}_loss"], **tolerance)
  np.testing.assert_allclose(bound, g[f"{name}_vb_loss"], **tolerance)
  np.testing.assert_allclose(
    grad(g["logits"]), g[f"{name}_grad_logits"], **tolerance
  )


@pytest.mark.parametrize("case", ["ul_sample", "ul_sample_fast"])
def test_chain_of_the_released_code(case):
  """The authors' sampling loop, replayed with their uniforms and tokens."""
  g = np.load(GOLDEN / f"{case}.npz")
  steps, temperature = (16, 1.0) if case == "ul_sample" else (7, 0.8)
  k = g["W"].shape[1]
  prior = absorbing.Prior(k)
  z = jnp.full(g["sample_out"].shape, k)
  for i, t in enumerate(range(steps, 0, -1)):
    p = jax.nn.softmax((g["W"][z] + g["P"]) / temperature)
    token = jnp.argmax(p / g["sample_exp"][i], -1)
    # A reveal happens for small draws there, for large ones here.
    u = 1.0 - g["sample_rand"][i]
    z = prior.reveal(u, token, z, jnp.float32(t / steps), (t - 1) / steps)
  np.testing.assert_array_equal(z, g["sample_out"])


@pytest.mark.parametrize("case", ["ul_sample", "ul_sample_fast"])
def test_bound_of_the_released_code(case):
  """Their ELBO: one mask per t = T..1, in nats per image."""
  g = np.load(GOLDEN / f"{case}.npz")
  x = g["elbo_x0"]
  steps = len(g["elbo_rand"])
  prior = absorbing.Prior(g["W"].shape[1], time_steps=steps)
  total = 0.0
  for rand, t in zip(g["elbo_rand"], range(steps, 0, -1), strict=True):
    z = np.where(rand < t / steps, prior.vocab_size, x)
    now = jnp.full(len(x), t / steps)
    s = now - 1 / steps
    log_probs = jax.nn.log_softmax(g["W"][z] + g["P"])
    total += prior.cost(log_probs, z, x, s, now)[1] / steps
  nats = total * x.shape[1] * math.log(2)
  np.testing.assert_allclose(nats, g["elbo"], rtol=1e-5)


@pytest.mark.parametrize("schedule", schedules.MASKED)
@pytest.mark.parametrize("time_steps", [None, 12])
def test_uniform_predictor_costs_log2_k(schedule, time_steps, key):
  """Whatever the schedule: the ELBO weights integrate to one per token."""
  prior = absorbing.Prior(
    K, schedule=schedule, time_steps=time_steps, bound_times=12
  )
  x = jax.random.randint(key, (4096, 8), 0, K)
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  bits = jax.jit(prior.bits, static_argnums=1)(key, model, x)
  error = bits.std() / math.sqrt(len(x))
  assert abs(bits.mean() - math.log2(K)) < 4 * error
  # A token is masked with probability m and weighs m' / m, so that its term has
  # at most the second moment m'^2 / m log2(K)^2; 1.5 is for what so heavy a
  # tail does to a sample's deviation.
  masked, first = schedules.masked(schedule), absorbing.EARLIEST
  t = jnp.exp(jnp.linspace(math.log(first), 0.0, 1001))
  moment = schedules.slope(masked, t) ** 2 / masked(t)
  noise = jnp.trapezoid(moment, t) + masked(first) / first
  noise = noise / (12 * x.size)
  assert error < 1.5 * math.log2(K) * math.sqrt(noise)


def test_exact_masking_makes_the_uniform_bound_exact(key):
  """With exact counts at T = n, the estimate has no variance at all."""
  n = 8
  prior = absorbing.Prior(K, time_steps=n, bound_times=n, masking="exact")
  x = jax.random.randint(key, (6, n), 0, K)
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  bits = jax.jit(prior.bits, static_argnums=1)(key, model, x)
  np.testing.assert_allclose(bits, math.log2(K), rtol=1e-5)


def test_discrete_bound_tends_to_the_continuous_one(key):
  """Every image has the same x, so that the mean over b is an expectation."""
  x = jnp.tile(jnp.array([[0, 3, 1, 4]]), (4000, 1))
  model = table(4)

  def bound(steps):
    prior = absorbing.Prior(K, schedule="cosine", time_steps=steps)
    return float(jax.jit(prior.bits, static_argnums=1)(key, model, x).mean())

  continuous = bound(None)
  gaps = [abs(bound(steps) - continuous) for steps in (2, 8, 256)]
  assert gaps[0] > gaps[1] > gaps[2]
  assert gaps[2] < 0.03


def test_loss_of_an_oracle_is_zero(key):
  x = jax.random.randint(key, (3, 6), 0, K)
  oracle = Model(lambda z, t: 1e6 * (jax.nn.one_hot(x, K) - 1.0))
  for weight in absorbing._WEIGHTS:
    loss, _ = absorbing.Prior(K, loss_weight=weight).loss(key, oracle, x)
    assert loss == 0


def test_loss_estimates_the_bound(key):
  """E[loss] = E[bits] for loss_weight = elbo."""
  x = jnp.tile(jnp.array([[0, 3, 1, 4]]), (20_000, 1))
  prior, model = absorbing.Prior(K), table(4)
  loss, (metrics, _) = prior.loss(key, model, x)
  assert loss == metrics["bits_per_token"]
  assert abs(loss - prior.bits(key, model, x).mean()) < 0.05


@pytest.mark.parametrize("masking", ["bernoulli", "exact"])
def test_corruption_has_the_right_rate(masking, key):
  prior = absorbing.Prior(K, masking=masking)
  x = jax.random.randint(key, (2000, 10), 0, K)
  z = prior.corrupt(key, None, x, jnp.full(2000, 0.3))
  masked = z == K
  assert abs(masked.mean() - 0.3) < 4 * math.sqrt(0.21 / x.size)
  assert ((z == x) | masked).all()
  if masking == "exact":
    assert (masked.sum(1) == 3).all()


@pytest.mark.parametrize("schedule", schedules.MASKED)
def test_reverse_step_is_the_posterior_of_the_chain(schedule, key):
  """Frequencies of `reverse` against `transitions.posterior`."""
  prior = absorbing.Prior(K, schedule=schedule)
  t, s = jnp.float32(0.8), jnp.float32(0.3)
  logits = jax.random.normal(key, (K,))
  log_probs = jax.nn.log_softmax(logits)
  model = Model(lambda z, t: jnp.broadcast_to(log_probs, (*z.shape, K)))
  z = jnp.full((400, 100), K)
  drawn = prior.reverse(key, model, z, t, s)
  found = np.bincount(np.asarray(drawn).ravel(), minlength=K + 1) / z.size
  expected = transitions.posterior(
    prior.kernel(s), prior.kernel(t), log_probs[None, None], jnp.array([[K]])
  )[0, 0]
  expected = jnp.exp(expected)
  np.testing.assert_allclose(found, expected, atol=4 * 0.5 / math.sqrt(z.size))


def test_unknown_names_are_refused():
  for field in ("loss_weight", "schedule", "masking"):
    with pytest.raises(ValueError, match="Choices"):
      absorbing.Prior(K, **{field: "nonsense"})
