"""What a masked token costs a trained prior, by how many are masked.

The schedule "optimal" is made of it: measured on validation tokens when it is
first asked for, and stored beside the checkpoint.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import pipeline, steps, weights
from vq_jax.data import _loader
from vq_jax.ops import masking
from vq_jax.priors import _chain
from vq_jax.samplers import _reveal
from vq_jax.system import build_system, conditional_model
from vq_jax.train import frozen
from vq_jax.train.log import progress
from vq_jax.train.request import worded
from vq_jax.types import Array, Batch, Key, Model, Params

Config = Mapping[str, Any]
FILE = "levels.json"
DRAWS = 16  # Images whose masked tokens are scored at each level.


def known(
  config: Config, workdir: pathlib.Path, step: int, params: Params
) -> Config:
  """The config, with the losses if its sampler asks for them.

  Args:
    config: of the run.
    workdir: where they are stored.
    step: of the checkpoint; those of another one are measured anew.
    params: its weights.
  """
  if config.get("sampler", {}).get("schedule") != "optimal":
    return config
  path = workdir / FILE
  stored = weights.load_json(path, "delete it") if path.exists() else {}
  if stored.get("step") != step:
    nats = measure(frozen.local_paths(config, workdir), params)
    stored = {"step": step, "nats_per_masked_token": nats}
    weights.write_json(path, stored)
  return {**config, "levels": stored["nats_per_masked_token"]}


def sampler(config: Config) -> dict[str, Any]:
  """config.sampler, with counts in place of "optimal" if the losses are known.

  The losses are smoothed first, each weighted by the tokens it is a mean of.
  """
  section = dict(config["sampler"])
  if section.get("schedule") == "optimal" and "levels" in config:
    nats = config["levels"]
    nats = steps.rising(nats, np.arange(1, len(nats) + 1))
    section["schedule"] = steps.optimal(nats, section["steps"])
  return section


def measure(config: Config, params: Params) -> list[float]:
  """The losses of a trained prior on validation tokens, as conditioned there.

  Raises:
    FileNotFoundError: the tokens are not where the config says.
  """
  system = build_system(config)
  section = config["evaluate"]
  source = worded(config, "validation", system.text)
  return losses(
    functools.partial(conditional_model, system),
    params | frozen.load(system),
    pipeline.build_prior(config["prior"]),
    source,
    jax.random.key(section["seed"]),
    keys=source.asked(system),
    batch=section["batch"],
  ).tolist()


def losses(
  model: Callable[[Params, Batch], Model],
  params: Params,
  prior: Any,
  source: Sequence[Mapping[str, Any]],
  key: Key,
  *,
  keys: Sequence[str],
  batch: int,
  draws: int = DRAWS,
) -> np.ndarray:
  """Mean -log p(x_i | z) over masked tokens i, with k = 1..n tokens masked.

  Args:
    model: (params, {key: [b ..]} for `keys`) -> Model.
    params: of the net.
    prior: ends in masks; tells the time at which k of them are expected.
    source: of tokens.
    key: of the positions that are masked.
    keys: what the model is asked for: "label", "words" or "features".
    batch: images at a time.
    draws: images for each k.

  Returns:
    Nats [n]; entry k - 1 is that of k masks.

  Raises:
    ValueError: the prior does not end in masks.
  """
  n = len(source[0]["ids"])
  grid, masked = _reveal.clock(prior, n)

  @jax.jit
  def score(params: Params, rows: Batch, first: Array) -> Array:
    number = first + jnp.arange(batch)
    level = number % n + 1
    noise = jax.vmap(
      lambda i: jax.random.uniform(jax.random.fold_in(key, i), (n,))
    )(number)
    hidden = masking.highest(noise, jnp.ones_like(noise, bool), level)
    z = jnp.where(hidden, prior.vocab_size, rows["ids"])
    view = model(params, {name: rows[name] for name in keys})
    log_probs = view.denoise(z, _reveal.time_of(level / n, grid, masked))
    nats = _chain.nats(log_probs, rows["ids"])
    return jnp.sum(jnp.where(hidden, nats, 0.0), 1) / level

  # Drawn, and not in turn, or the images of a level might be all of one kind.
  images = np.random.default_rng(0).integers(len(source), size=draws * n)
  total = -(-len(images) // batch)
  batches = _loader.padded(Chosen(source, images), ("ids", *keys), batch)
  found = []
  for rows in progress(batches, total, "losses by masks"):
    del rows["mask"]  # What is repeated at the end is cut off below.
    found.append(np.asarray(score(params, rows, len(found) * batch)))
  return np.concatenate(found)[: len(images)].reshape(draws, n).mean(0)


class Chosen:
  """The examples of a source that have the given numbers, in that order."""

  def __init__(self, source: Sequence[Mapping[str, Any]], numbers: np.ndarray):
    self.source, self.numbers = source, numbers

  def __len__(self) -> int:
    """How many numbers there are."""
    return len(self.numbers)

  def __getitem__(self, i: int) -> Mapping[str, Any]:
    """Number i of them."""
    return self.source[int(self.numbers[i])]
