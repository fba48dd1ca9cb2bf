"""The autoregressive prior, its sampler, and a cache that changes nothing."""

import functools
import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from configs import emoji32_autoregressive
from vq_jax import models, pipeline
from vq_jax.convert import unleashing
from vq_jax.nets.transformer import Net
from vq_jax.priors import absorbing, autoregressive
from vq_jax.samplers import autoregressive as sampler
from vq_jax.system import System, make_model
from vq_jax.train import benchmark
from vq_jax.types import Cached, Condition, Model

GOLDEN = pathlib.Path(__file__).parent / "golden"
K, GRID, N = 3, (2, 2), 4
PRIOR = autoregressive.Prior(K)
SMALL = dict(vocab_size=K, grid=GRID, layers=2, width=8, heads=2, causal=True)
NETS = {
  "plain": SMALL,
  "told": dict(SMALL, labels=3, null_label=True, text_dim=5),
}


def conditions(net, b):
  rng = np.random.default_rng(b)
  label = rng.integers(net.labels, size=b) if net.labels else None
  text = rng.normal(size=(b, 6, net.text_dim)).astype("f")
  return Condition(label, text if net.text_dim else None)


@functools.cache
def small(name):
  """A net and random weights that are large, so that tokens matter."""
  net = Net(**NETS[name])
  args = jnp.zeros((1, N), int), None, conditions(net, 1)
  shapes = jax.eval_shape(net.init, jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(1)
  draw = lambda leaf: 0.7 * rng.normal(size=leaf.shape).astype("f")  # noqa: E731
  return net, jax.tree.map(draw, shapes)


def everything():
  """All K^n sequences."""
  return np.array(list(itertools.product(range(K), repeat=N)))


@functools.cache
def law():
  """p(x) of every sequence, by the prior's likelihood."""
  net, params = small("plain")
  model = make_model(net, params, Condition())
  bits = jax.jit(lambda x: PRIOR.bits(None, model, x))(everything())
  return 2.0 ** (-N * np.asarray(bits, np.float64))


def test_the_likelihood_is_a_law():
  """Sums to one over all sequences, and is far from uniform."""
  p = law()
  np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
  assert p.max() > 10 * p.min()


def test_the_likelihood_is_the_product_of_the_conditionals(key):
  """A model with a law of its own: p(x_i | x_<i) is a row of a table."""
  table = np.random.default_rng(0).dirichlet(np.ones(K), size=(N, K**N))
  place = K ** jnp.arange(N)

  def denoise(z, t):
    prefix = jnp.cumsum(z * place, 1) - z * place
    return jnp.log(table[jnp.arange(N), prefix])

  x = everything()
  expected = np.ones(len(x))
  for row, p in zip(x, range(len(x)), strict=True):
    for i in range(N):
      expected[p] *= table[i, row[:i] @ K ** np.arange(i), row[i]]
  bits = PRIOR.bits(key, Model(denoise), x)
  np.testing.assert_allclose(bits, -np.log2(expected) / N, rtol=1e-5)
  loss, (metrics, memory) = PRIOR.loss(key, Model(denoise), x, memory=7)
  np.testing.assert_allclose(loss, np.mean(bits), rtol=1e-6)
  assert metrics["bits_per_token"] == loss and memory == 7


def test_loss_of_the_released_code():
  data = np.load(GOLDEN / "ul_transformer_ar.npz")
  weights = dict(np.load(GOLDEN / "ul_transformer_ar.weights.npz"))
  section, params = unleashing.transformer(weights, heads=4)
  section.pop("name")
  model = make_model(Net(**section), params, Condition())
  prior = autoregressive.Prior(section["vocab_size"])
  bits = jax.jit(lambda x: prior.bits(None, model, x))(data["x"])
  np.testing.assert_allclose(bits.mean(), data["ar_loss"], rtol=1e-4)
  # The same, token by token.
  said = teacher_forced(model, data["x"])
  np.testing.assert_allclose(
    said, jax.nn.log_softmax(data["logits"]), rtol=1e-4, atol=1e-4
  )


def teacher_forced(model, x):
  """log p(x_i | x_<i) [b n K] from n steps of the cache."""

  @jax.jit
  def run(x):
    b, n = x.shape

    def step(cache, inputs):
      i, token = inputs
      log_probs, cache = model.cached.step(cache, token, i, jnp.ones(b))
      return cache, log_probs

    before = jnp.roll(x, 1, 1).T  # Step 0 must ignore what it is given.
    _, said = jax.lax.scan(step, model.cached.start(b), (jnp.arange(n), before))
    return jnp.swapaxes(said, 0, 1)

  return run(x)


def test_a_cache_says_what_the_whole_says():
  net, params = small("told")
  x = np.random.default_rng(2).integers(K, size=(16, N))
  model = make_model(net, params, conditions(net, 16))
  whole = jax.jit(model.denoise)(x, jnp.ones(16))
  np.testing.assert_allclose(
    teacher_forced(model, x), whole, rtol=1e-5, atol=1e-5
  )


CHANGES = dict(
  guidance=1.5,
  guidance_ramp="linear",
  guidance_interval=(0.2, 0.9),
  top_p=0.95,
  temperature=0.8,
)


def whole_grid(key, model, prior, shape, known=None):
  """The sampler, with the network called for the whole grid at each token."""
  plain = model._replace(cached=None)
  return sampler.sample(key, plain, prior, shape, known=known)


def test_a_cache_changes_no_image():
  """Equal ids through the pipeline: guided, truncated, tempered."""
  net, params = small("told")
  index = np.arange(64)

  def run(draw):
    return jax.jit(
      lambda: pipeline.generate(
        jax.random.key(5),
        index,
        {"label": index % 3, "words": index % 2},
        system=System(net, Words(), "learnt"),
        params={"net": params, "text": {}, "null": jnp.ones((6, 5))},
        prior=PRIOR,
        draw=draw,
        **CHANGES,
      )
    )()

  ids = run(pipeline.build_sampler({"name": "autoregressive"}, PRIOR))
  np.testing.assert_array_equal(ids, run(whole_grid))
  assert len(np.unique(ids, axis=0)) > 8


class Words:
  """A text encoder of two captions."""

  def apply(self, variables, words):
    return jnp.sin(jnp.arange(30.0) * (words[:, None] + 1)).reshape(-1, 6, 5)


COUNT = 8000


@functools.cache
def runner():
  """known [b n] -> states [n + 1, b, n], of one seed."""
  net, params = small("plain")
  model = make_model(net, params, Condition())
  args = (jax.random.key(0), model, PRIOR, (COUNT, N))
  return jax.jit(lambda known: sampler.trajectory(*args, known=known))


@pytest.fixture
def drawn():
  """Nothing is known."""
  return np.asarray(runner()(np.full((COUNT, N), K)))


def test_samples_have_the_law_of_the_likelihood(drawn):
  """Chi-square over all K^n sequences."""
  code = drawn[-1] @ K ** np.arange(N)[::-1]
  found = np.bincount(code, minlength=K**N)
  expected = law() * COUNT
  seen = expected > 1
  statistic = ((found - expected)[seen] ** 2 / expected[seen]).sum()
  freedom = seen.sum() - 1
  assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_known_tokens_stay_and_are_heeded(drawn):
  """With the same noise: what was drawn, given as known, changes nothing; and
  another token at i changes none in front of it."""
  ids = drawn[-1]
  given = np.where(np.arange(N) % 2, ids, K)
  np.testing.assert_array_equal(runner()(given)[-1], ids)
  given = np.full_like(ids, K)
  given[:, 1] = (ids[:, 1] + 1) % K
  other = np.asarray(runner()(given)[-1])
  np.testing.assert_array_equal(other[:, 1], given[:, 1])
  np.testing.assert_array_equal(other[:, 0], ids[:, 0])
  assert (other[:, 2:] != ids[:, 2:]).any()


def test_a_trajectory_is_written_from_left_to_right(drawn):
  for i, state in enumerate(drawn):
    np.testing.assert_array_equal(state[:, :i], drawn[-1][:, :i])
    assert (state[:, i:] == K).all()


def test_one_token_is_what_a_step_is_told(key):
  """A model that counts: traced once, in turn, at the time that is left."""
  calls = []

  def start(b):
    calls.append(b)
    return jnp.zeros(b, int)

  def step(cache, token, i, t):
    calls.append((token.shape, t.shape))
    # Token i must be i mod K, and every earlier one must have been.
    right = cache + (i > 0) * (token == (i - 1) % K) - i == 0
    right &= jnp.abs(t - (1.0 - i / N)) < 1e-6
    now = jnp.where(right, i % K, 0)
    return jnp.log(jax.nn.one_hot(now, K) + 1e-30), cache + (i > 0)

  model = Model(None, cached=Cached(start, step))
  ids = jax.jit(lambda k: sampler.sample(k, model, PRIOR, (2, N)))(key)
  np.testing.assert_array_equal(ids, [np.arange(N) % K] * 2)
  assert calls == [2, ((2,), (2,))]


def flops(side):
  """Of one step with a cache, and of the whole grid: per image."""
  net = Net(
    16, (side, side), 2, 32, 2, causal=True, remat=False, text_dim=5, labels=2
  )
  cond = conditions(net, 1)
  z, t = jnp.zeros((1, side * side), int), jnp.ones(1)
  params = jax.eval_shape(net.init, jax.random.key(0), z, t, cond)["params"]

  def start(params):
    return make_model(net, params, cond).cached.start(1)

  def step(params, cache, i):
    return make_model(net, params, cond).cached.step(cache, z[:, 0], i, t)

  def whole(params):
    return make_model(net, params, cond).denoise(z, t)

  cache = jax.eval_shape(start, params)
  index = jax.ShapeDtypeStruct((), jnp.int32)
  programs = (jax.jit(step).lower(params, cache, index),)
  programs += (jax.jit(whole).lower(params),)
  return [program.cost_analysis()["flops"] for program in programs]


def test_a_step_is_the_work_of_one_token():
  """One program for every i: 1 / n of the whole grid's, captions and classes
  included. It depends on n by attention alone: a query meets n keys and n
  values of d features in each layer."""
  few, all_few = flops(4)
  many, all_many = flops(8)
  assert few < 1.1 * all_few / 16 and many < 1.1 * all_many / 64
  attention = 2 * 4 * 32 * (64 - 16)
  assert attention < many - few < 1.3 * attention


def test_wrong_pairs_are_refused_before_they_run():
  with pytest.raises(ValueError, match=r"'autoregressive' needs .* causal"):
    pipeline.build_sampler({"name": "autoregressive"}, absorbing.Prior(K))
  with pytest.raises(ValueError, match=r"'ancestral' needs .* start, reverse"):
    pipeline.build_sampler({"name": "ancestral", "steps": 4}, PRIOR)
  with pytest.raises(ValueError, match="no key 'steps'"):
    pipeline.build_sampler({"name": "autoregressive", "steps": 4}, PRIOR)
  net = Net(**{**SMALL, "causal": False})
  args = jnp.zeros((1, 1), int), None, Condition()
  with pytest.raises(ValueError, match="causal=True"):
    jax.eval_shape(lambda: net.apply({}, *args, index=0))
  assert make_model(net, {}, Condition()).cached is None


def test_a_step_is_what_is_timed(tmp_path):
  """The step of a cache beside the sampler's, which has no `steps`."""
  config = emoji32_autoregressive.get_config("smoke")
  config = json.loads(config.to_json())
  benchmark.benchmark(config, tmp_path, toy.one_device())
  row = json.loads((tmp_path / "benchmark.json").read_text())
  assert row["tokens"] == math.prod(config["net"]["grid"])
  assert row["network_seconds"] > 0 and math.isfinite(row["step_seconds"])


def test_a_model_without_a_cache_is_changed_without_one():
  plain = Model(lambda z, t: jnp.zeros((*z.shape, K)))
  assert models.temper(plain, 0.5).cached is None
