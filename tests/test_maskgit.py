"""The MaskGIT prior: released schedules, its loss, and its bound."""

import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from joints import conditional, exact_model

from vq_jax import plugins, schedules
from vq_jax.priors import _masks, absorbing, maskgit
from vq_jax.types import Model

GOLDEN = pathlib.Path(__file__).parent / "golden"
K = 5
SCHEDULES = [
  *schedules.MASKED,
  *("pow0.5", "pow3", "poly0.5", "exp256", "log256", "ln148.4"),
]
OURS = {"uniform": "linear", "log": "log{}", "exp": "exp{}"}


@pytest.mark.parametrize("total", [256, 1024])
@pytest.mark.parametrize(
  "method", ["uniform", "cosine", "pow0.5", "pow1", "pow2.5", "log", "exp"]
)
def test_released_schedules(method, total):
  """gamma(r) at t = 1 - r; theirs stays above 1e-6, and "exp" below 1."""
  g = np.load(GOLDEN / "maskgit_schedule.npz")
  name = OURS.get(method, method).format(total)
  found = schedules.masked(name)(1.0 - g["ratio"])
  if method == "exp":
    found *= 1.0 - 1.0 / total
  expected = g[f"{method}_{total}"]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1.2e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_masking_ratio_rises_from_0_to_1_exactly(name):
  """Also compiled, where constants are folded elsewhere."""
  times = jnp.linspace(0.0, 1.0, 1001)
  for schedule in (schedules.masked(name), jax.jit(schedules.masked(name))):
    ratio = np.asarray(schedule(times))
    assert ratio[0] == 0 and ratio[-1] == 1 and ratio.max() == 1
    rises = np.diff(ratio) > 0
    assert rises[ratio[:-1] < 1].all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_time_of_a_share_is_when_it_is_masked(name):
  prior = maskgit.Prior(K, schedule=name)
  share = jnp.arange(4, 33) / 32
  found = prior.kernel(_masks.time(prior, share)).mask
  np.testing.assert_allclose(found, share, atol=1e-3)


def test_arccos_is_the_inverse_of_cosine():
  """Not another name for it: the ratios are the same on average only."""
  t = jnp.linspace(0.0, 1.0, 101)
  there = schedules.arccos(1.0 - schedules.cosine(t))
  np.testing.assert_allclose(there, 1.0 - t, atol=1e-6)
  t = (jnp.arange(10_000) + 0.5) / 10_000
  for schedule in (schedules.arccos, schedules.cosine):
    np.testing.assert_allclose(schedule(t).mean(), 2 / math.pi, rtol=1e-4)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("cosin", "Did you mean 'cosine'"),
    ("pow", "Choices: arccos, .*powNUMBER"),
    ("pow-2", "Choices"),
    ("log1", "number above 1 behind 'log'"),
    ("poly0", "number above 0"),
  ],
)
def test_what_is_no_schedule_is_refused(name, message):
  with pytest.raises(ValueError, match=message):
    maskgit.Prior(K, schedule=name)


def test_wrong_numbers_are_refused():
  for field in ("least", "visible_weight", "label_smoothing"):
    with pytest.raises(ValueError, match=rf"{field} is 1.5, not in \[0, 1\]"):
      maskgit.Prior(K, **{field: 1.5})
  with pytest.raises(ValueError, match="bound_times"):
    maskgit.Prior(K, bound_times=0)


@pytest.mark.parametrize("visible", [0.0, 0.1, 1.0])
def test_cost_is_the_released_loss(visible, key):
  """Their smoothed targets, which are optax's, and their mean per image."""
  prior = maskgit.Prior(K, visible_weight=visible, label_smoothing=0.1)
  logits = jax.random.normal(key, (4, 6, K))
  x = jax.random.randint(key, (4, 6), 0, K)
  z = jnp.where(jnp.arange(6) < jnp.array([[1], [3], [4], [6]]), K, x)
  targets = optax.smooth_labels(jax.nn.one_hot(x, K), 0.1)
  nats = -np.sum(targets * jax.nn.log_softmax(logits), -1)
  weights = np.where(z == K, 1.0, visible)
  expected = (nats * weights).sum(1) / weights.sum(1)
  found = prior.cost(jax.nn.log_softmax(logits), z, x)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_image_without_a_mask_costs_nothing(key):
  x = jax.random.randint(key, (2, 6), 0, K)
  prior = maskgit.Prior(K, masking="bernoulli")
  log_probs = jax.nn.log_softmax(jax.random.normal(key, (2, 6, K)))
  cost, slope = jax.value_and_grad(lambda p: prior.cost(p, x, x).sum())(
    log_probs
  )
  assert cost == 0 and (slope == 0).all()


@pytest.mark.parametrize("masking", ["exact", "bernoulli"])
@pytest.mark.parametrize(
  ("schedule", "least", "mean"),
  [
    ("cosine", 0.0, 2 / math.pi),
    # A third of all times is before the ratio 1/2.
    ("cosine", 0.5, 1 / 6 + 2 / math.pi * math.cos(math.pi / 6)),
    ("linear", 0.2, 0.2**2 + (1 - 0.2**2) / 2),
    ("pow3", 0.0, 3 / 4),
  ],
)
def test_training_masks_at_the_rates_of_the_schedule(
  masking, schedule, least, mean, key
):
  b, n = 2000, 50
  prior = maskgit.Prior(K, schedule=schedule, masking=masking, least=least)
  seen = []

  def denoise(z, t):
    seen.append((z == K).sum(1))
    return jnp.full((*z.shape, K), -math.log(K))

  x = jnp.zeros((b, n), jnp.int32)
  loss, (metrics, memory) = prior.loss(key, Model(denoise), x, memory=7)
  some = (seen[0] > 0).mean()  # An image without a mask costs nothing.
  np.testing.assert_allclose(loss, some * math.log(K), rtol=1e-5)
  np.testing.assert_allclose(
    metrics["bits_per_masked_token"], math.log2(K), rtol=1e-5
  )
  assert memory == 7
  np.testing.assert_allclose(metrics["masked_fraction"], mean, atol=5e-3)
  counts = np.asarray(seen[0])
  if masking == "exact":
    assert counts.min() >= max(1, math.floor(least * n))
    # Stratified: no rate is far from its turn.
    turn = np.sort(schedules.masked(schedule)((jnp.arange(b) + 0.5) / b))
    turn = np.maximum(turn, least) * n
    np.testing.assert_allclose(np.sort(counts), turn, atol=1.0)


def test_loss_of_an_oracle_is_zero(key):
  x = jax.random.randint(key, (3, 6), 0, K)
  oracle = Model(lambda z, t: 1e6 * (jax.nn.one_hot(x, K) - 1.0))
  prior = maskgit.Prior(K, label_smoothing=0.0, visible_weight=1.0)
  assert prior.loss(key, oracle, x)[0] == 0


def any_order(joint, x):
  """Bits per token of random orders: every count and every set of masks."""
  n, total = joint.ndim, 0.0
  for count in range(1, n + 1):
    sets = list(itertools.combinations(range(n), count))
    for hidden in sets:
      z = tuple(len(joint) if i in hidden else x[i] for i in range(n))
      p = conditional(joint, z)
      nats = -sum(math.log(p[i, x[i]]) for i in hidden)
      total += nats / (count * len(sets))
  return total / (n * math.log(2))


def test_bits_are_those_of_random_orders(key):
  """For each image by enumeration; with exact conditionals, the entropy."""
  n, k, copies = 3, 3, 500
  rng = np.random.default_rng(1)
  joint = rng.dirichlet(np.full(k**n, 0.5)).reshape((k,) * n)
  model = exact_model(joint)
  prior = maskgit.Prior(k, bound_times=n)
  states = np.array(list(itertools.product(range(k), repeat=n)))
  x = jnp.asarray(states.repeat(copies, 0))
  bits = jax.jit(prior.bits, static_argnums=1)(key, model, x)
  bits = np.asarray(bits).reshape(-1, copies)
  law = joint[tuple(states.T)]
  entropy = -np.sum(law * np.log2(law)) / n
  error = bits.std(1) / math.sqrt(copies)
  total = math.sqrt(np.sum((law * error) ** 2))
  assert abs(law @ bits.mean(1) - entropy) < 4 * total
  for i in range(0, len(states), 9):
    expected = any_order(joint, states[i])
    assert abs(bits[i].mean() - expected) < 5 * error[i] + 1e-5


def test_every_count_once_leaves_a_uniform_predictor_no_variance(key):
  x = jax.random.randint(key, (6, 7), 0, K)
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  prior = maskgit.Prior(K, bound_times=7)
  bits = jax.jit(prior.bits, static_argnums=1)(key, model, x)
  np.testing.assert_allclose(bits, math.log2(K), rtol=1e-5)


def test_bits_tell_the_time_when_as_many_are_masked(key):
  """A model that answers right at that time only."""
  prior = maskgit.Prior(K, schedule="cosine", bound_times=4)

  def denoise(z, t):
    share = jnp.mean(z == K, 1)
    error = jnp.abs(prior.kernel(t).mask - share)
    return jnp.broadcast_to(-error[:, None, None], (*z.shape, K))

  x = jnp.zeros((64, 8), jnp.int32)
  bits = jax.jit(prior.bits, static_argnums=1)(key, Model(denoise), x)
  assert (bits < 0.01).all()


@pytest.mark.parametrize(
  "name", ["ancestral", "events", "fewer_tokens", "purity"]
)
def test_samplers_take_its_chain_for_that_of_absorbing(name, key):
  """The same schedule, and so the same ids, of the same noise."""
  module = plugins.resolve("samplers", name)
  w = jax.random.normal(key, (K + 1, K))
  model = Model(lambda z, t: jax.nn.log_softmax(w[z] + w[z].mean(1)[:, None]))
  priors = [p.Prior(K, schedule="cosine") for p in (maskgit, absorbing)]
  draws = jax.jit(
    lambda key: [module.sample(key, model, p, (4, 8), steps=3) for p in priors]
  )(key)
  assert (draws[0] < K).all()
  np.testing.assert_array_equal(*draws)
