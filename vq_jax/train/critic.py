"""A critic: which tokens of an image a prior has drawn (arXiv:2209.04439).

Masked images are filled by a trained prior, and a network of one number per
token learns which of its tokens the prior drew and which are the image's own.
The sampler "critic" asks it what to mask again. That network is `config.net`,
or, without it, the prior's own with another last layer, which alone is trained:
a self-critic.

A token that was drawn counts as drawn though it may be the right one. To learn
which are wrong, as a public re-implementation does, is to learn which are easy
to guess: such a critic keeps background, and paints nothing else.
"""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vq_jax import pipeline, plugins
from vq_jax.data import _loader
from vq_jax.priors import _chain
from vq_jax.samplers import _reveal
from vq_jax.system import System, build_system, conditional_model
from vq_jax.train import codes, frozen, judging, optimizer
from vq_jax.train.judging import Loaded
from vq_jax.train.request import Worded, worded
from vq_jax.train.task import State, Task, apply_gradients, new_state
from vq_jax.types import Array, Batch, Key, Metrics, Model, Params

Config = Mapping[str, Any]


def make_task(config: Config) -> Task:
  """A critic of the prior in the run `config.generator`."""
  fresh = initial(config)
  config, system, generator = pair(config)
  optimizer.check_average(config["ema"])
  transform = plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  codes.check_tokens(config, pathlib.Path(config["generator"]) / "tokenizer")
  score = make_score(config, system, generator)
  fixed = _fixed(generator)
  source = _source(config, system, generator, "train")

  def init(key: Key) -> State:
    params = fresh(key)
    return new_state(params, transform.init(params), fixed)

  return Task(
    init=init,
    update=make_update(system, generator, transform, config),
    source=source,
    inputs=_keys(source, system, generator),
    evaluate=lambda state: score(
      state.ema, state.extra, config["evaluate"]["limit"]
    ),
    pictures={},
  )


def pair(config: Config) -> tuple[Config, System, Loaded]:
  """The config with a net, what it makes, and the prior that it judges.

  Raises:
    FileNotFoundError: there is no run of a prior, or no checkpoint of it.
    ValueError: the net cannot be a critic, or not of that prior.
  """
  generator = judging.load(pathlib.Path(config["generator"]), "prior")
  prior = pipeline.build_prior(generator.config["prior"])
  check_chain(prior, generator.system.net)
  whole = judging.complete(config)
  system = build_system(whole)
  judging.check_net(system.net)
  judging.check_pair(config, system, generator.config, generator.system)
  return whole, system, generator


def check_chain(prior: Any, net: Any) -> None:
  """ValueError unless the sampler "critic" can run the chain of the prior."""
  section = {"name": "critic", "steps": 1, "critic": None}
  pipeline.build_sampler(section, prior)
  _reveal.clock(prior, math.prod(net.grid))


def fill(key: Key, model: Model, prior: Any, x: Array) -> tuple[Array, Array]:
  """Images as the sampler sees them: masked at a time of their own, and filled.

  Args:
    key: of the batch; times are uniform, one in every interval of 1 / b.
    model: of the prior.
    prior: a chain that masks.
    x: clean ids [b n].

  Returns:
    Filled ids [b n] in 0..K-1, and which of them were drawn, bool [b n].
  """
  key_t, key_z, key_x = jax.random.split(key, 3)
  t = 1.0 - _chain.stratified(key_t, len(x))
  z = prior.corrupt(key_z, model, x, t)
  token = jax.random.categorical(key_x, model.denoise(z, t))
  masked = z == prior.vocab_size
  return jnp.where(masked, token, z), masked


def make_update(
  system: System,
  generator: Loaded,
  transform: optax.GradientTransformation,
  config: Config,
):
  """(state, batch, key) -> (state, metrics), pure."""
  prior = pipeline.build_prior(generator.config["prior"])
  rate = config["condition"]["dropout"]

  def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    key_fill, key_null, key_drop = jax.random.split(key, 3)
    b = batch["ids"].shape[0]
    drop = jax.random.bernoulli(key_null, rate, (b,)) if rate else None
    fixed = state.extra
    model = conditional_model(generator.system, fixed["generator"], batch)
    filled, drawn = fill(key_fill, model, prior, batch["ids"])

    def loss(params: Params) -> Array:
      params = judging.whole(fixed["generator"], params)
      score = judging.judge(system, params, batch, drop, key_drop)
      logits = score(filled)
      return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, drawn))

    value, grads = jax.value_and_grad(loss)(state.params)
    params, moments = apply_gradients(transform, grads, value, state)
    step = state.step + 1
    ema = optimizer.average(state.ema, params, step, **config["ema"])
    metrics = {
      "loss": value,
      "grad_norm": optax.tree.norm(grads),
      "drawn_fraction": jnp.mean(drawn),
    }
    return State(step, state.ok, params, ema, moments, fixed), metrics

  return update


def make_score(config: Config, system: System, generator: Loaded):
  """(critic, fixed weights, limit) -> its numbers on validation images."""
  prior = pipeline.build_prior(generator.config["prior"])
  source = _source(config, system, generator, "validation")
  section = config["evaluate"]
  key = jax.random.key(section["seed"])

  @jax.jit
  def score(params: Params, fixed: Params, rows: Batch, i: Array) -> Array:
    model = conditional_model(generator.system, fixed["generator"], rows)
    own = jax.random.fold_in(key, i)
    filled, drawn = fill(own, model, prior, rows["ids"])
    params = judging.whole(fixed["generator"], params)
    logits = judging.judge(system, params, rows)(filled)
    nats = optax.sigmoid_binary_cross_entropy(logits, drawn)
    # The last is the accuracy of a critic that takes all for drawn.
    terms = (nats, (logits > 0) == drawn, drawn)
    return jnp.stack([jnp.mean(term, 1) for term in terms])

  def measure(
    params: Params, fixed: Params, limit: int | None
  ) -> dict[str, float]:
    keys, found = _keys(source, system, generator), []
    batches = _loader.padded(source, keys, section["batch"], limit)
    for i, rows in enumerate(batches):
      mask = rows.pop("mask")
      found.append(np.asarray(score(params, fixed, rows, i))[:, mask])
    means = np.concatenate(found, 1).mean(1)
    names = ("nats_per_token", "accuracy", "drawn_fraction")
    return dict(zip(names, map(float, means), strict=True))

  return measure


def initial(config: Config) -> Callable[[Key], Params]:
  """Key -> fresh weights of all that is trained."""
  return judging.initial(config)


def measure(
  config: Config, workdir: pathlib.Path, mesh: Mesh, params: Params
) -> dict[str, float]:
  """Cross-entropy and accuracy on all validation images."""
  del workdir, mesh
  config, system, generator = pair(config)
  score = make_score(config, system, generator)
  return score(params, _fixed(generator), None)


def _fixed(generator: Loaded) -> Params:
  """All weights that training does not change."""
  params = generator.params | frozen.load(generator.system)
  return {"generator": params}


def _keys(source: Worded, system: System, generator: Loaded) -> tuple[str, ...]:
  both = (*source.asked(system), *source.asked(generator.system))
  return tuple(dict.fromkeys(("ids", *both)))


def _source(
  config: Config, system: System, generator: Loaded, split: str
) -> Worded:
  text = system.text or generator.system.text
  return worded(config, split, text)
