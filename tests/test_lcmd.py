"""VQ-LCMD: its bound, the terms of its loss, and whom gradients reach."""

import dataclasses
import functools
import math

import embedded
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vq_jax import models
from vq_jax.priors import _embedded, lcmd
from vq_jax.priors.lcmd import PATHS, Prior
from vq_jax.samplers import ancestral
from vq_jax.types import Model

K, D = 5, 3
CODES = jax.random.normal(jax.random.key(9), (K + 1, D))
IDS = jax.random.randint(jax.random.key(8), (8, 6), 0, K)


def linear(weight, codes=CODES):
  """A network of one matrix, which hears the time."""

  def denoise(z, t):
    return jax.nn.log_softmax(jnp.sin(z @ weight) * (2.0 - t[:, None, None]))

  return Model(denoise, codes)


WEIGHT = jax.random.normal(jax.random.key(7), (D, K))


def loss(prior, model=None, target=None, x=IDS, seed=0):
  model = linear(WEIGHT) if model is None else model
  call = lambda key: prior.loss(key, model, x, target=target)  # noqa: E731
  return jax.jit(call)(jax.random.key(seed))


@pytest.mark.parametrize(("shift", "normalise"), [(1.0, False), (0.4, True)])
def test_the_bound_of_an_exact_denoiser_is_the_entropy(shift, normalise, key):
  """Of a law on three codes; what the ends tell costs nothing."""
  law = np.array([0.5, 0.2, 0.3])
  codes = jnp.array([[-1.5, 0.3], [0.2, 1.0], [1.3, -0.4], [0.0, 1.0]])
  prior = Prior(3, shift=shift, normalise=normalise, bound_times=64)
  table = prior.table(Model(None, codes))
  model = embedded.exact(prior, law, table)._replace(codes=codes)
  count = 1000
  x = jnp.repeat(jnp.arange(3), count)[:, None]
  terms = jax.jit(lambda key: prior.terms(key, model, x))(key)
  bits = np.asarray(sum(terms)).reshape(3, count)
  error = math.sqrt(np.sum(law**2 * bits.var(1) / count))
  entropy = -np.sum(law * np.log2(law))
  assert error < 0.03
  assert abs(np.sum(law * bits.mean(1)) - entropy) < 4 * error
  assert terms.start.max() < 1e-4 and terms.reconstruction.max() < 1e-4
  wrong = embedded.exact(prior, [0.1, 0.8, 0.1], table)._replace(codes=codes)
  more = jax.jit(lambda key: prior.bits(key, wrong, x))(key).reshape(3, count)
  # Of the marginal law alone, which is what the wrong one is wrong about.
  gap = np.sum(law * np.log2(law / np.array([0.1, 0.8, 0.1])))
  found = np.sum(law * (more.mean(1) - bits.mean(1)))
  assert abs(found - gap) < 0.1


def test_diffusion_term_is_its_integral():
  """By quadrature over t and z, for a network that is wrong."""
  codes = np.array([[-1.0], [1.0], [0.0]])
  prior = Prior(2, shift=0.7, margin=0.05, bound_times=32)
  model = Model(
    lambda z, t: jax.nn.log_softmax(jnp.concatenate([-z, z], -1)),
    jnp.asarray(codes, jnp.float32),
  )
  t = np.linspace(0, 1, 2001)
  log_snr = np.asarray(prior.log_snr(jnp.asarray(t)), np.float64)
  alpha, sigma = embedded.levels(log_snr)
  noise = np.linspace(-6, 6, 801)
  weight = np.exp(-(noise**2) / 2)
  z = alpha[:, None] + sigma[:, None] * noise  # Of the code at 1.
  error = (1.0 - np.tanh(z)) ** 2 @ (weight / weight.sum())
  expected = np.trapezoid(0.5 * error, -np.exp(log_snr)) / math.log(2)
  x = jnp.ones((3000, 1), jnp.int32)
  key = jax.random.key(1)
  found = jax.jit(lambda key: prior.terms(key, model, x).diffusion)(key)
  assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(found))
  # The training estimate is the same integral.
  csdm = dataclasses.replace(
    prior, diffusion="bound", diffusion_weight=1.0, drop_ratio=0.0
  )
  trained = loss(csdm, model, x=x)[1][0]["diffusion"] / math.log(2)
  np.testing.assert_allclose(trained, expected, rtol=0.1)


def test_a_network_that_says_nothing_costs_log_k():
  model = Model(lambda z, t: jnp.full((*z.shape[:2], K), -math.log(K)), CODES)
  value, (metrics, memory) = loss(Prior(K, denoising_weight=2.0), model)
  for name in ("reconstruction", "denoising", "entropy"):
    np.testing.assert_allclose(metrics[name], math.log(K), rtol=1e-5)
  centred = CODES[:-1] - CODES[:-1].mean(0)
  distance = jnp.mean(jnp.sum(centred[IDS] ** 2, -1))
  np.testing.assert_allclose(metrics["diffusion"], distance, rtol=1e-5)
  assert metrics["consistency"] == 0
  expected = 3 * math.log(K) + 0.005 * distance
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  pairs = [
    float(jnp.sum((CODES[i] - CODES[j]) ** 2))
    for i in range(K)
    for j in range(i)
  ]
  np.testing.assert_allclose(
    metrics["code_distance"], math.sqrt(np.mean(pairs)), rtol=1e-5
  )
  assert memory == ()


@pytest.mark.parametrize("divergence", _embedded.DIVERGENCES)
def test_a_network_that_knows_all_costs_nothing(divergence):
  prior = Prior(K, divergence=divergence, denoising_weight=1.0)
  value, (metrics, _) = loss(prior, embedded.oracle(IDS, CODES))
  assert value == 0 and metrics["bits_per_token"] == 0


def test_divergences_are_of_the_teacher_or_of_the_student(key):
  p, q = jax.nn.log_softmax(jax.random.normal(key, (2, 4, K)))
  one, two = (_embedded.DIVERGENCES[who] for who in ("teacher", "student"))
  expected = [np.dot(np.exp(a), a - b) for a, b in zip(p, q, strict=True)]
  np.testing.assert_allclose(one(p, q), expected, rtol=1e-5)
  np.testing.assert_array_equal(two(q, p), one(p, q))
  np.testing.assert_allclose(one(p, p), 0.0, atol=1e-7)


def test_the_teacher_receives_no_gradient():
  """Neither its network nor its embeddings; the student does."""

  def value(student, teacher):
    target = linear(*teacher)
    args = (jax.random.key(0), linear(*student), IDS)
    return Prior(K, diffusion_weight=0.0).loss(*args, target=target)[0]

  student, teacher = (WEIGHT, CODES), (WEIGHT + 0.1, CODES + 0.1)
  grads = jax.jit(jax.grad(value, (0, 1)))(student, teacher)
  moved = [float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)]
  assert min(moved[:2]) > 1e-3 and moved[2:] == [0, 0]


@pytest.mark.parametrize("solver", lcmd.CHOICES["solver"])
def test_consistency_vanishes_as_s_nears_t(solver, key):
  """Quadratically in t - s, as a divergence of near laws does."""
  prior = Prior(K, solver=solver, shift=1.0)
  t = jnp.full(8, 0.6)
  model = linear(WEIGHT)

  @jax.jit
  def gap(step):
    z = prior.corrupt(key, model, IDS, t)
    said = prior._teach(model, None, z, t, t - step)
    return _embedded.divergence(said, model.denoise(z, t)).mean()

  far, near, none = (float(gap(step)) for step in (0.1, 0.01, 0.0))
  assert far > 1e-4 and abs(none) < 1e-6
  assert 30 < far / near < 300


def test_heun_stays_nearer_to_the_flow_than_one_step_of_ddim(key):
  """The truth is 100 steps from t to s."""
  law = np.array([0.5, 0.2, 0.3])
  prior = Prior(3, shift=1.0)
  model = embedded.exact(prior, law, CODES[:4])
  x = jnp.repeat(jnp.arange(3), 40)[:, None]
  t, s = jnp.full(120, 0.6), jnp.full(120, 0.4)

  @jax.jit
  def apart(key):
    z = prior.corrupt(key, model, x, t)
    times = jnp.linspace(0.6, 0.4, 101)

    def step(z, ends):
      return prior.move(z, prior.estimate(model, z, ends[0]), *ends), None

    there, _ = jax.lax.scan(step, z, (times[:-1], times[1:]))
    truth = model.denoise(there, s)
    return [
      _embedded.divergence(
        truth,
        dataclasses.replace(prior, solver=name)._teach(model, None, z, t, s),
      ).mean()
      for name in ("ddim", "heun")
    ]

  ddim, heun = apart(key)
  assert heun < 0.3 * ddim


def test_gradients_of_the_paths_add_up(key):
  """The chain rule: each way alone, and all together."""

  def value(codes, gradients):
    prior = Prior(
      K,
      shift=1.0,
      gradients=gradients,
      evidence=True,
      drop_ratio=0.0,
      diffusion_weight=1.0,
    )
    return prior.loss(key, linear(WEIGHT, codes), IDS)[0]

  ways = [*((path,) for path in PATHS), PATHS, ()]
  found = jax.jit(lambda c: [jax.grad(value)(c, way) for way in ways])(CODES)
  *each, together, none = found
  assert all(jnp.abs(one[:-1]).max() > 1e-3 for one in each)
  np.testing.assert_allclose(together, sum(each), atol=1e-5)
  assert jnp.abs(none).max() == 0


def test_averaged_codes_are_the_teachers_and_can_be_replaced():
  """With the student's codes, a teacher of the same matrix is the student."""
  model, target = linear(WEIGHT), linear(WEIGHT, 3.0 * CODES)
  priors = [
    Prior(K, drop_ratio=0.0, average_codes=flag) for flag in (False, True)
  ]

  @jax.jit
  def both(key):
    runs = [
      prior.loss(key, model, IDS, target=teacher)
      for prior in priors
      for teacher in (model, target)
    ]
    return [metrics["consistency"] for _, (metrics, _) in runs]

  alone, replaced, same, averaged = both(jax.random.key(0))
  assert alone == replaced == same
  assert abs(averaged - alone) > 1e-3


@pytest.mark.parametrize(
  ("law", "ratio", "expected"),
  [
    ("fixed", 0.2, lambda t: 0.2 + 0 * t),
    ("random", 1.0, lambda t: 0.5 + 0 * t),
    ("linear", 0.8, lambda t: 0.8 * t),
  ],
)
def test_tokens_are_dropped_in_the_right_share(law, ratio, expected, key):
  n, count = 64, 400
  for t in (0.0, 0.3, 1.0):
    times = jnp.full(count, t)
    hidden = _embedded.dropped(key, (count, n), times, law, ratio)
    share = np.asarray(hidden.mean(1))
    sigma = 1 / math.sqrt(12 * count) if law == "random" else 0.5 / 160
    assert abs(share.mean() - expected(t)) < 4 * sigma
    # Of each image a share of its own, from none to all, or the same.
    assert (share.std() > 0.2) == (law == "random")


def test_what_is_dropped_is_seen_as_mask_by_student_and_teacher():
  """The same tokens in all calls of one example, a fifth of them."""
  seen = []

  def denoise(z, t):
    jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
    return jax.nn.log_softmax(z @ WEIGHT)

  model = Model(denoise, CODES)
  loss(Prior(K), model, x=jnp.tile(IDS, (1, 20)))
  jax.effects_barrier()
  masks = [(z == np.asarray(CODES[-1])).all(-1) for z in seen]
  assert len(masks) == 4
  assert all((mask == masks[0]).all() for mask in masks)
  assert abs(masks[0].mean() - 0.2) < 4 * math.sqrt(0.16 / masks[0].size)
  seen.clear()
  before = Prior(K, drop_before_noise=True, drop_ratio=1.0, margin=1e-5)
  loss(before, model)
  jax.effects_barrier()
  clean = min(seen, key=lambda z: np.abs(z - np.asarray(CODES[-1])).max())
  np.testing.assert_allclose(
    clean, np.broadcast_to(CODES[-1], clean.shape), atol=0.01
  )
  assert not (clean == np.asarray(CODES[-1])).all()


def test_evidence_makes_a_law_the_posterior(key):
  """By Bayes' rule, where tokens are independent: no network is needed."""
  law = np.array([0.5, 0.2, 0.3])
  prior = Prior(3, shift=0.7, evidence=True)
  z, t = 2.0 * jax.random.normal(key, (4, 6, D)), jnp.linspace(0.1, 1.0, 4)
  seen = []

  def says(z, t):
    seen.append(z)
    return jnp.broadcast_to(jnp.log(law), (*z.shape[:2], 3))

  model, truth = Model(says, CODES[:4]), embedded.exact(prior, law, CODES[:4])
  expected = truth.denoise(z, t)
  found = prior.posterior(model).denoise(z, t)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
  # What the network sees is that mean for codes that are all as likely.
  flat = embedded.exact(prior, np.full(3, 1 / 3), CODES[:4]).denoise(z, t)
  np.testing.assert_allclose(seen[0], jnp.exp(flat) @ CODES[:3], atol=2e-5)
  # Of dropped tokens it sees MASK, and says all there is to say.
  hidden = jnp.arange(6) % 2 == 0
  found = prior.posterior(model, hidden[None]).denoise(z, t)
  np.testing.assert_allclose(
    found[:, 1::2], expected[:, 1::2], rtol=1e-5, atol=2e-5
  )
  np.testing.assert_allclose(
    found[:, ::2], jnp.broadcast_to(jnp.log(law), (4, 3, 3)), atol=1e-6
  )
  assert (seen[1][:, ::2] == CODES[3]).all()
  np.testing.assert_allclose(seen[1][:, 1::2], seen[0][:, 1::2], atol=1e-6)


def test_normalised_embeddings_have_the_norm_of_unit_variance():
  table = Prior(K, normalise=True).table(linear(WEIGHT))
  norms = jnp.linalg.norm(table, axis=-1)
  np.testing.assert_allclose(norms, math.sqrt(D), rtol=1e-5)


def test_models_of_embeddings_can_be_changed_like_those_of_ids(key):
  """Guidance, windows, temperature and truncation leave the codes in place."""
  prior, model = Prior(K), linear(WEIGHT)
  z, t = jax.random.normal(key, (2, 24, D)), jnp.array([0.2, 0.8])
  plain = model.denoise(z, t)
  pair = Model(lambda z, t: model.denoise(z, t), CODES)
  changes = {
    "guide": models.guide(pair, 2.0),  # Both halves say the same.
    "widen": models.widen(model, canvas=(4, 6), window=(4, 4), stride=1),
    "temper": models.temper(models.temper(model, 0.5), 2.0),
  }
  for changed in changes.values():
    assert changed.codes is CODES
    np.testing.assert_allclose(changed.denoise(z, t), plain, atol=1e-5)
  # What is truncated loses its mass, and the guess is still a mean of codes.
  first = models.truncate(model, top_k=1)
  np.testing.assert_allclose(
    prior.estimate(first, z, t), CODES[plain.argmax(-1)], atol=1e-5
  )
  run = functools.partial(ancestral.sample, prior=prior, shape=(2, 24), steps=3)
  ids = jax.jit(lambda key: run(key, changes["widen"]))(key)
  assert ids.shape == (2, 24) and ((ids >= 0) & (ids < K)).all()


def test_training_lowers_the_loss_and_the_bound(key):
  """A matrix and its embeddings, 100 updates; nothing collapses."""
  prior, x = Prior(K, shift=1.0, bound_times=4), IDS
  params = (0.1 * WEIGHT, 0.3 * CODES)
  adam = optax.adam(3e-2)

  def value(params, ema, key):
    target = linear(*ema)
    found, (metrics, _) = prior.loss(key, linear(*params), x, target=target)
    return found, metrics["code_distance"]

  def step(carry, key):
    params, ema, state = carry
    found, grads = jax.value_and_grad(value, has_aux=True)(params, ema, key)
    updates, state = adam.update(grads, state)
    params = optax.apply_updates(params, updates)
    ema = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, ema, params)
    return (params, ema, state), found

  @jax.jit
  def train(params):
    before = prior.bits(key, linear(*params), x).mean()
    carry = (params, params, adam.init(params))
    keys = jax.random.split(key, 100)
    (params, _, _), found = jax.lax.scan(step, carry, keys)
    return before, prior.bits(key, linear(*params), x).mean(), *found

  before, after, losses, distance = train(params)
  assert losses[-10:].mean() < 0.7 * losses[:10].mean()
  assert after < before and distance[-1] > distance[0]


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"drop": "fixd"}, "Did you mean 'fixed'"),
    ({"solver": "euler"}, "ddim, heun"),
    ({"divergence": "js"}, "student, teacher"),
    ({"gradients": ("z",)}, "estimate, evidence, state, target"),
    ({"evidence": True, "drop_before_noise": True}, "one of them to False"),
    ({"shift": 0.0}, "must be positive"),
    (
      {f"{name}_weight": 0.0 for name in Prior(K).weights()},
      "weights of the loss are 0",
    ),
    ({"margin": 0.5}, "between 0 and 0.5"),
    ({"drop_ratio": 1.5}, "from 0 to 1"),
    ({"bound_times": 0}, "at least 1"),
  ],
)
def test_bad_options_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Prior(K, **fields)
