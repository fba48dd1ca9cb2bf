"""Draws images of a prior: compiled once, asked for by number."""

import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vq_jax import evaluate, pipeline, plugins, weights
from vq_jax.ops import flops
from vq_jax.system import (
  System,
  blank,
  condition,
  conditional_model,
  init_system,
)
from vq_jax.train import judging, layout, levels
from vq_jax.train.log import progress
from vq_jax.train.request import Requests
from vq_jax.types import Array, Batch, Params

Config = Mapping[str, Any]


def make_generator(
  config: Config, system: System, prior: Any, what: str = "sample"
):
  """(params, image numbers [b], requests) -> ids [b n], compiled once.

  `what` is a function of the sampler's module: "sample" or "trajectory", which
  gives [b steps + 1 n]. `guidance` [b] replaces that of the config; `known` [n]
  holds ids that must not change, with K where all is free.
  """
  chosen = levels.sampler(config)
  draw = pipeline.build_sampler(
    chosen, prior, what, canvas=canvas(config, system)
  )
  second = load_critic(chosen, config, system)
  section = dict(config["sample"])
  key = jax.random.key(section.pop("seed"))
  fixed = section.pop("guidance", 0.0)
  for name in ("count", "batch", "captions", "split", "tile"):
    section.pop(name, None)
  given = ("system", "params", "request", "key")
  plugins.check(pipeline.adapt, section, "config.sample", given)

  @jax.jit
  def compiled(
    judged: Params,
    params: Params,
    index: Array,
    requests: Batch,
    guidance: Array | None = None,
    known: Array | None = None,
  ) -> Array:
    judge = second and functools.partial(
      judging.judge, second.system, judging.whole(params, judged)
    )
    return pipeline.generate(
      key,
      index,
      requests,
      judge=judge,
      guidance=fixed if guidance is None else guidance,
      system=system,
      params=params,
      prior=prior,
      draw=draw,
      known=known,
      **section,
    )

  return functools.partial(compiled, second.params if second else {})


def load_critic(
  section: Config, config: Config, system: System
) -> judging.Loaded | None:
  """The run that config.sampler.critic names; None if there is no such key.

  Raises:
    FileNotFoundError: there is no run, or no checkpoint of it.
    ValueError: it is not of a critic, or not of one that fits the prior.
  """
  if "critic" not in section:
    return None
  found = judging.load(pathlib.Path(section["critic"]), "critic")
  judging.check_pair(found.config, found.system, config, system)
  return found


def check_sampling(
  config: Config, system: System, prior: Any, fixed: Params
) -> None:
  """Traces the sampler, which refuses what it cannot do, before training."""
  init = functools.partial(init_system, system)
  params = jax.eval_shape(init, jax.random.key(0)) | fixed
  index = np.arange(1)
  request = Requests(config, system)(index)
  jax.eval_shape(make_generator(config, system, prior), params, index, request)


def network_calls(
  config: Config, system: System, prior: Any, params: Params
) -> dict[str, float]:
  """{"network_calls"}: what a batch of samples costs, in calls of the network.

  By its matrix products: a guided call is two, a token at a time from a cache
  is its share, and a critic's calls count too. Nothing where the sampler goes
  on until its tokens end it.
  """
  index = np.arange(config["sample"]["batch"])
  asked = params, Requests(config, system)(index)
  z, t = blank(system.net, len(index)), np.ones(len(index), np.float32)

  def call(params: Params, request: Batch) -> Array:
    return conditional_model(system, params, request).denoise(z, t)

  once = flops.count(call, *asked)
  once -= flops.count(functools.partial(condition, system), *asked)
  try:
    run = make_generator(config, system, prior)
    return {"network_calls": flops.count(run, params, index, asked[1]) / once}
  except flops.Unbounded:
    return {}


def ask(
  requests: Requests, index: np.ndarray, mesh: Mesh
) -> tuple[Array, dict[str, Array]]:
  """Image numbers [b] -> the same and what they show, placed on the mesh."""
  rows = layout.place_batch({"index": index, **requests(index)}, mesh)
  return rows.pop("index"), rows


def canvas(config: Config, system: System) -> tuple[int, int]:
  """(H, W) in tokens of what is drawn: config.sample.canvas or the grid."""
  return tuple(config["sample"].get("canvas") or system.net.grid)


def exported(directory: pathlib.Path) -> Any:
  """The module of an exported tokenizer, without its weights."""
  file = directory / "config.json"
  section = weights.load_json(file, "export that part again")
  return pipeline.build_tokenizer(section)


def make_paint(directory: pathlib.Path, config: Config, system: System):
  """ids [b n] -> images [b h w c] in [0, 1], by an exported tokenizer."""
  tokenizer, params = pipeline.load_tokenizer(directory)
  grid, tile = canvas(config, system), config["sample"].get("tile", ())

  def paint(ids: Array) -> Array:
    return pipeline.decode_tiled(tokenizer, params, ids, grid, tile=tile)

  return jax.jit(paint)


def make_painter(
  config: Config,
  workdir: pathlib.Path,
  mesh: Mesh,
  system: System,
  prior: Any,
  params: Params,
  known: np.ndarray | None = None,
):
  """(requests, count) -> batches of samples.

  With `caption`, what they were asked for, if there are captions; with `text`,
  what they say, if the codes of the tokenizer are characters.
  """
  run = make_generator(config, system, prior)
  paint = make_paint(workdir / "tokenizer", config, system)
  spell = getattr(exported(workdir / "tokenizer"), "spell", None)
  size = config["sample"]["batch"]

  def draw(requests: Requests, index: np.ndarray) -> Array:
    return run(params, *ask(requests, index, mesh), known=known)

  def images(requests: Requests, count: int) -> Iterator[dict]:
    batches = evaluate.samples(
      functools.partial(draw, requests), paint, count, size
    )
    for batch in progress(
      batches, -(-count // size), f"sample, {size} at a time"
    ):
      if requests.captions:
        batch["caption"] = [requests.caption(int(i)) for i in batch["index"]]
      if spell:
        batch["text"] = spell(batch["ids"])
      yield batch

  return images
