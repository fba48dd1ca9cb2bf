"""The critic's stage: what it is shown, that it learns, and who asks it."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stages import prior_task

from configs import emoji32_critic
from vq_jax import pipeline, weights
from vq_jax.data import _loader, _shards, tokens
from vq_jax.priors import absorbing
from vq_jax.samplers import critic as sampler
from vq_jax.system import build_system, conditional_model
from vq_jax.train import checkpoint, codes, critic, judging, sampling
from vq_jax.types import Model


def test_images_are_filled_where_they_were_masked(key):
  """All of it is masked with probability t, and t is uniform; the rest is the
  image's own. What an oracle draws, too, and it counts as drawn."""
  k, x = 4, jnp.arange(64 * 500).reshape(500, 64) % 4
  uniform = Model(lambda z, t: jnp.full((*z.shape, k), -math.log(k)))
  filled, drawn = critic.fill(key, uniform, absorbing.Prior(k), x)
  assert (filled >= 0).all() and (filled < k).all()
  np.testing.assert_array_equal(filled[~drawn], x[~drawn])
  assert abs((filled == x)[drawn].mean() - 1 / k) < 0.01
  share = np.asarray(drawn.mean(1))
  assert abs(share.mean() - 0.5) < 0.01
  # Of uniform t the share has the deviation of a uniform number.
  assert abs(share.std() - 1 / math.sqrt(12)) < 0.02
  oracle = Model(lambda z, t: 1e6 * (jax.nn.one_hot(x, k) - 1.0))
  filled, again = critic.fill(key, oracle, absorbing.Prior(k), x)
  np.testing.assert_array_equal(again, drawn)
  np.testing.assert_array_equal(filled, x)


def test_a_perfect_prior_leaves_nothing_to_learn(key):
  """Of tokens that are independent, by a prior that knows how frequent each is:
  a frequent one is as often drawn as any, so that no critic prefers it."""
  p = jnp.array([0.7, 0.2, 0.1])
  x = jax.random.choice(key, 3, (2000, 64), p=p)
  model = Model(lambda z, t: jnp.broadcast_to(jnp.log(p), (*z.shape, 3)))
  filled, drawn = critic.fill(key, model, absorbing.Prior(3), x)
  for token in range(3):
    assert abs(drawn[filled == token].mean() - 0.5) < 0.02


def save_run(workdir, config, state):
  """A run directory with one checkpoint."""
  checkpoint.claim(workdir, config)
  store = checkpoint.Store(workdir, config, **config["keep"])
  store.save(1, state._replace(step=jnp.int32(1)))
  store.close()


def save_prior(place, fresh):
  """The config of a prior's run of pictures that are one code all over.

  fresh: (task, key) -> its state.
  """
  path = place / "tokens"
  path.mkdir()
  task, config = prior_task(path)
  n = math.prod(config["net"]["grid"])
  k = config["net"]["vocab_size"]
  rows = [{"ids": np.full(n, 3), "label": i % 3} for i in range(16)]
  manifest = tokens.read_manifest(str(path))
  for split in ("train", "validation"):
    batches = _loader.padded(rows, ["ids", "label"], 8)
    manifest["splits"][split] = [_shards.write(path, split, batches, k)]
  weights.write_json(path / tokens.MANIFEST, manifest)
  save_run(place / "prior", config, fresh(task, jax.random.key(0)))
  codes.adopt_tokenizer(config, place / "prior")
  return config


def ignorant(task, key):
  """The state of a prior that knows nothing."""
  state = jax.eval_shape(task.init, key)
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)


def train(place, arg):
  """100 updates of a critic: its config, state, numbers and metrics."""
  judged = json.loads(emoji32_critic.get_config(arg).to_json())
  judged["data"]["path"] = str(place / "tokens")
  judged["generator"] = str(place / "prior")
  judged["optimizer"] |= {"lr": 0.02, "warmup_steps": 1, "decay": "constant"}
  judged["ema"]["decay"] = 0.9
  task, key = critic.make_task(judged), jax.random.key(0)
  state = jax.jit(task.init)(key)
  before = task.evaluate(state)
  update = jax.jit(task.update, donate_argnums=0)
  batch = _loader.stack([task.source[i] for i in range(8)], task.inputs)
  for i in range(100):
    state, metrics = update(state, batch, jax.random.fold_in(key, i))
  after = task.evaluate(state)
  save_run(place / "critic", judged, state)
  return judged, state, before, after, metrics


def check_drawn(ids, config, params, index, labels, ask):
  """Compares ids with what the sampler draws by itself, one at a time.

  ask: request -> the critic.
  """
  system, prior = build_system(config), pipeline.build_prior(config["prior"])

  @jax.jit
  def draw(key, label):
    request = {"label": label[None]}
    model = conditional_model(system, params, request)
    shape = (1, math.prod(system.net.grid))
    critic = ask(request)
    return sampler.sample(key, model, prior, shape, steps=3, critic=critic)

  key = jax.random.key(config["sample"]["seed"])
  for i, label in zip(index, labels, strict=True):
    expected = draw(jax.random.fold_in(key, i), jnp.asarray(label))
    np.testing.assert_array_equal(ids[i], expected[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A prior that knows nothing and its critic."""
  place = tmp_path_factory.mktemp("critic")
  config = save_prior(place, ignorant)
  judged, _, *numbers = train(place, "smoke")
  return place, config, judged, *numbers


def test_a_critic_learns_what_was_drawn(runs):
  """From less than a coin's worth to nearly all; a fresh one says a half."""
  *_, before, after, metrics = runs
  share = after["drawn_fraction"]
  assert abs(before["nats_per_token"] - math.log(2)) < 0.1
  assert after["accuracy"] > max(share, 1 - share) + 0.2
  assert after["nats_per_token"] < 0.6 * math.log(2)
  assert share == before["drawn_fraction"]
  assert metrics["drawn_fraction"] > 0.2


def test_a_sampler_asks_the_run_that_its_config_names(runs):
  """As by hand: the critic's weights, told what the image shows."""
  place, config, *_ = runs
  section = {"name": "critic", "steps": 3, "critic": str(place / "critic")}
  config = {**config, "sampler": section}
  config["sample"] = {**config["sample"], "guidance": 0.0, "temperature": 1.0}
  system, prior = build_system(config), pipeline.build_prior(config["prior"])
  generator = judging.load(place / "prior", "prior")
  judged = judging.load(place / "critic", "critic")
  index, request = np.arange(2), {"label": np.array([1, 2])}
  run = sampling.make_generator(config, system, prior)
  ids = run(generator.params, index, request)

  ask = functools.partial(judging.judge, judged.system, judged.params)
  check_drawn(ids, config, generator.params, index, request["label"], ask)


def test_mistakes_are_one_sentence(runs):
  place, config, judged, *_ = runs
  system = build_system(config)
  prior = pipeline.build_prior(config["prior"])
  make = functools.partial(sampling.make_generator, system=system, prior=prior)
  for path, error, message in (
    ("nowhere", FileNotFoundError, "holds no run"),
    ("prior", ValueError, "config.stage = 'prior'; what is wanted"),
  ):
    section = {"name": "critic", "steps": 3, "critic": str(place / path)}
    with pytest.raises(error, match=message):
      make({**config, "sampler": section})
  section["critic"] = str(place / "critic")
  net = system.net.clone(grid=(2, 2))
  with pytest.raises(ValueError, match="make them alike"):
    make({**config, "sampler": section}, system=system._replace(net=net))
  with pytest.raises(ValueError, match=r"config\.net\.outputs = 1"):
    critic.make_task({**judged, "net": {**judged["net"], "outputs": 0}})
  with pytest.raises(ValueError, match="make them alike"):
    critic.make_task({**judged, "net": {**judged["net"], "vocab_size": 3}})
