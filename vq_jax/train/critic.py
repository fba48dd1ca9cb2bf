"""A critic: which tokens of a filled image are wrong (arXiv:2209.04439).

Masked images are filled by a trained prior, and a network of one number per
token learns which of its tokens are not the image's own. The sampler "critic"
asks it what to mask again.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vq_jax import pipeline, plugins
from vq_jax.data import _loader
from vq_jax.priors import _chain
from vq_jax.system import (
  System,
  build_system,
  condition,
  conditional_model,
  init_system,
)
from vq_jax.train import checkpoint, codes, frozen, layout, optimizer
from vq_jax.train.request import Worded, asked, read_tokens
from vq_jax.train.task import State, Task, apply_gradients, new_state
from vq_jax.types import Array, Batch, Key, Metrics, Model, Params

Config = Mapping[str, Any]


class Loaded(NamedTuple):
  """A trained run: its config, its networks and their weights on the host."""

  config: Config
  system: System
  params: Params


def make_task(config: Config) -> Task:
  """The critic `config.net` of the prior in the run `config.generator`."""
  system = build_system(config)
  check_net(system.net)
  optimizer.check_average(config["ema"])
  transform = plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  generator = load(pathlib.Path(config["generator"]), "prior")
  check_pair(config, system, generator)
  codes.check_tokens(config, pathlib.Path(config["generator"]) / "tokenizer")
  score = make_score(config, system, generator)
  fixed = _fixed(system, generator)

  def init(key: Key) -> State:
    params = init_system(system, key)
    return new_state(params, transform.init(params), fixed)

  return Task(
    init=init,
    update=make_update(system, generator, transform, config),
    source=_source(config, system, generator, "train"),
    inputs=_keys(system, generator),
    evaluate=lambda state: score(
      state.ema, state.extra, config["evaluate"]["limit"]
    ),
    pictures={},
  )


def check_net(net: Any) -> None:
  """ValueError unless the net can be a critic."""
  if net.outputs != 1 or net.time or net.causal:
    raise ValueError(
      "A critic's net has config.net.outputs = 1, no time, and is not causal."
    )


def check_pair(config: Config, system: System, generator: Loaded) -> None:
  """ValueError unless critic and generator see the same tokens and words."""
  net, other = system.net, generator.system.net
  if (net.vocab_size, *net.grid) != (other.vocab_size, *other.grid):
    raise ValueError(
      f"The critic has K = {net.vocab_size} and a grid {net.grid}, the prior in"
      f" {config['generator']} K = {other.vocab_size} and {other.grid}; make"
      " them alike."
    )
  if system.text and config["text"] != generator.config.get("text"):
    raise ValueError(
      "A critic that reads captions has the config.text of its prior."
    )


def load(directory: pathlib.Path, stage: str) -> Loaded:
  """A trained run of that stage, with averaged weights.

  Raises:
    FileNotFoundError: there is no run, or no checkpoint of it.
    ValueError: it is of another stage.
  """
  directory = directory.absolute()
  config = checkpoint.read_config(directory)
  if config["stage"] != stage:
    raise ValueError(
      f"{directory} is a run of config.stage = {config['stage']!r}; what is"
      f" wanted here is one of {stage!r}."
    )
  local = frozen.local_paths(config, directory)
  system = build_system(local)
  init = functools.partial(init_system, system)
  abstract = jax.eval_shape(init, jax.random.key(0))
  # One device: the weights go on to the host, and from there to any mesh.
  alone = Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), layout.AXES)
  store = checkpoint.Store(directory, config, **config["keep"])
  _, params = store.weights(abstract, layout.layout(abstract, alone))
  store.close()
  return Loaded(local, system, jax.device_get(params) | frozen.load(system))


def judge(
  system: System,
  params: Params,
  request: Mapping[str, Array],
  drop: Array | None = None,
  dropout: Key | None = None,
) -> Callable[[Array], Array]:
  """ids [b n] in 0..K-1 -> logit that each is wrong [b n], float32.

  request: what the images show; `drop` [b] hides it; a dropout key trains.
  """
  cond = condition(system, params, request, drop)
  rngs = None if dropout is None else {"dropout": dropout}

  def score(ids: Array) -> Array:
    logits = system.net.apply(
      {"params": params["net"]},
      ids,
      None,
      cond,
      train=dropout is not None,
      rngs=rngs,
    )
    return logits[..., 0]

  return score


def fill(key: Key, model: Model, prior: Any, x: Array) -> tuple[Array, Array]:
  """Images as the sampler sees them: masked at a time of their own, and filled.

  Args:
    key: of the batch; times are uniform, one in every interval of 1 / b.
    model: of the prior.
    prior: a chain that masks.
    x: clean ids [b n].

  Returns:
    Filled ids [b n] in 0..K-1, and which of them are wrong, bool [b n].
  """
  key_t, key_z, key_x = jax.random.split(key, 3)
  t = 1.0 - _chain.stratified(key_t, len(x))
  z = prior.corrupt(key_z, model, x, t)
  token = jax.random.categorical(key_x, model.denoise(z, t))
  filled = jnp.where(z == prior.vocab_size, token, z)
  return filled, filled != x


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
    filled, wrong = fill(key_fill, model, prior, batch["ids"])

    def loss(params: Params) -> Array:
      params = params | fixed["critic"]
      score = judge(system, params, batch, drop, key_drop)
      logits = score(filled)
      return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, wrong))

    value, grads = jax.value_and_grad(loss)(state.params)
    params, moments = apply_gradients(transform, grads, value, state)
    step = state.step + 1
    ema = optimizer.average(state.ema, params, step, **config["ema"])
    metrics = {
      "loss": value,
      "grad_norm": optax.tree.norm(grads),
      "wrong_fraction": jnp.mean(wrong),
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
    filled, wrong = fill(own, model, prior, rows["ids"])
    logits = judge(system, params | fixed["critic"], rows)(filled)
    nats = optax.sigmoid_binary_cross_entropy(logits, wrong)
    # The last is the accuracy of a critic that finds nothing wrong.
    terms = (nats, (logits > 0) == wrong, ~wrong)
    return jnp.stack([jnp.mean(term, 1) for term in terms])

  def measure(
    params: Params, fixed: Params, limit: int | None
  ) -> dict[str, float]:
    keys, found = _keys(system, generator), []
    batches = _loader.padded(source, keys, section["batch"], limit)
    for i, rows in enumerate(batches):
      mask = rows.pop("mask")
      found.append(np.asarray(score(params, fixed, rows, i))[:, mask])
    means = np.concatenate(found, 1).mean(1)
    names = ("nats_per_token", "accuracy", "right_fraction")
    return dict(zip(names, map(float, means), strict=True))

  return measure


def initial(config: Config) -> Callable[[Key], Params]:
  """Key -> fresh weights of all that is trained."""
  return functools.partial(init_system, build_system(config))


def measure(
  config: Config, workdir: pathlib.Path, mesh: Mesh, params: Params
) -> dict[str, float]:
  """Cross-entropy and accuracy on all validation images."""
  del workdir, mesh
  system = build_system(config)
  generator = load(pathlib.Path(config["generator"]), "prior")
  score = make_score(config, system, generator)
  return score(params, _fixed(system, generator), None)


def _fixed(system: System, generator: Loaded) -> Params:
  """All weights that training does not change."""
  return {"critic": frozen.load(system), "generator": generator.params}


def _keys(system: System, generator: Loaded) -> tuple[str, ...]:
  both = (*asked(system), *asked(generator.system))
  return tuple(dict.fromkeys(("ids", *both)))


def _source(
  config: Config, system: System, generator: Loaded, split: str
) -> Worded:
  text = system.text or generator.system.text
  return Worded(read_tokens(config, split), text)
