"""A trained critic: its run, and the prior whose images it judges.

Without config.net it is a self-critic: the net of its prior up to the last
layer, and behind that a linear map to one number per token. That map is all
that it trains and stores; the rest are the weights of the prior, unchanged.
"""

import copy
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vq_jax.system import System, build_system, condition, init_system
from vq_jax.train import checkpoint, frozen, layout
from vq_jax.types import Array, Key, Params

Config = Mapping[str, Any]

# What sets the net of a self-critic apart; what is not trained has no dropout.
HEAD = {
  "outputs": 1,
  "tied_head": False,
  "head_bias": True,
  "dropout": 0.0,
  "attention_dropout": 0.0,
}
# What a prior with the same weights has alike.
ALIKE = ("net", "text", "condition", "prior", "init_from", "seed")


class Loaded(NamedTuple):
  """A trained run: its config, its networks and their weights on the host."""

  config: Config
  system: System
  params: Params


def complete(config: Config) -> Config:
  """The config; that of a self-critic with the net and text of its prior.

  Raises:
    FileNotFoundError: there is no run of the prior.
  """
  if "net" in config:
    return config
  directory = pathlib.Path(config["generator"]).absolute()
  prior = frozen.local_paths(checkpoint.read_config(directory), directory)
  config = copy.copy(config)
  config |= {k: prior[k] for k in ("text", "condition") if k in prior}
  config["net"] = {**prior["net"], **HEAD}
  return config


def initial(config: Config) -> Callable[[Key], Params]:
  """Key -> fresh weights of all that is trained."""
  init = functools.partial(init_system, build_system(complete(config)))
  if "net" in config:
    return init
  return lambda key: {"net": {"head": init(key)["net"]["head"]}}


def load(directory: pathlib.Path, stage: str) -> Loaded:
  """A trained run of that stage, with averaged weights of what it trained.

  The last one is remembered until it has other checkpoints.

  Raises:
    FileNotFoundError: there is no run, or no checkpoint of it.
    ValueError: it is of another stage.
  """
  directory = directory.absolute()
  saved = tuple(sorted(directory.glob("checkpoints/*")))
  return _load(directory, stage, saved)


@functools.lru_cache(maxsize=1)
def _load(directory: pathlib.Path, stage: str, saved: tuple) -> Loaded:
  del saved
  config = checkpoint.read_config(directory)
  if config["stage"] != stage:
    raise ValueError(
      f"{directory} is a run of config.stage = {config['stage']!r}; what is"
      f" wanted here is one of {stage!r}."
    )
  local = frozen.local_paths(config, directory)
  abstract = jax.eval_shape(initial(local), jax.random.key(0))
  # One device: the weights go on to the host, and from there to any mesh.
  alone = Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), layout.AXES)
  store = checkpoint.Store(directory, config, **config["keep"])
  _, params = store.weights(abstract, layout.layout(abstract, alone))
  store.close()
  system = build_system(complete(local))
  return Loaded(local, system, jax.device_get(params))


def whole(prior: Params, critic: Params) -> Params:
  """What a critic runs on: its weights, and the prior's where it has none.

  A frozen encoder of captions, too, is the prior's.
  """
  return {**prior, **critic, "net": {**prior["net"], **critic["net"]}}


def judge(
  system: System,
  params: Params,
  request: Mapping[str, Array],
  drop: Array | None = None,
  dropout: Key | None = None,
) -> Callable[[Array], Array]:
  """ids [b n] in 0..K-1 -> logit that each was drawn [b n], float32.

  A net that is told the time is told 0, where no token is masked.

  Args:
    system: of the critic.
    params: `whole`.
    request: what the images show.
    drop: hides it [b].
    dropout: a key trains.
  """
  cond = condition(system, params, request, drop)
  rngs = None if dropout is None else {"dropout": dropout}

  def score(ids: Array) -> Array:
    logits = system.net.apply(
      {"params": params["net"]},
      ids,
      jnp.zeros(len(ids)),
      cond,
      train=dropout is not None,
      rngs=rngs,
    )
    return logits[..., 0]

  return score


def check_net(net: Any) -> None:
  """ValueError unless the net can be a critic."""
  if net.outputs != 1 or net.code_dim or net.causal:
    raise ValueError(
      "A critic's net has config.net.outputs = 1, reads ids, and is not causal."
    )


def check_pair(
  config: Config, system: System, other: Config, prior: System
) -> None:
  """ValueError unless a critic fits a prior.

  Args:
    config: of the critic.
    system: of the critic.
    other: config of the prior.
    prior: its system.
  """
  if "net" not in config:
    check_trunk(config, other)
    return
  one, two = system.net, prior.net
  if (one.vocab_size, *one.grid) != (two.vocab_size, *two.grid):
    raise ValueError(
      f"The critic has K = {one.vocab_size} and a grid {one.grid}, its prior K"
      f" = {two.vocab_size} and {two.grid}; make them alike."
    )
  texts = [frozen.bare(each).get("text") for each in (config, other)]
  if system.text and texts[0] != texts[1]:
    raise ValueError(
      "A critic that reads captions has the config.text of its prior."
    )


def check_trunk(config: Config, other: Config) -> None:
  """ValueError unless `other` is of the prior whose net a self-critic has."""
  where = pathlib.Path(config["generator"]).absolute()
  old, new = (
    {key: each[key] for key in ALIKE if key in each}
    for each in map(frozen.bare, (checkpoint.read_config(where), other))
  )
  try:
    checkpoint.differ(old, new, where)
  except ValueError as error:
    raise ValueError(
      f"A self-critic judges its own prior alone: {error}"
    ) from error
