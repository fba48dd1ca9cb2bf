"""How long the parts of a system take, its sampler and its data among them."""

import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vq_jax import pipeline, weights
from vq_jax.data import tokens
from vq_jax.system import (
  blank,
  build_system,
  condition,
  init_system,
  make_model,
)
from vq_jax.train import actions, throughput
from vq_jax.types import Array, Cached, Model, Params

Config = Mapping[str, Any]
STEPS = (2, 6)  # Of two sampler runs whose difference is that of their steps.


def seconds(run: Callable[..., Any], *args: Any, repeats: int = 3) -> float:
  """The median time of a compiled call, after one that does not count."""
  jax.block_until_ready(run(*args))
  times = []
  for _ in range(repeats):
    begin = time.perf_counter()
    jax.block_until_ready(run(*args))
    times.append(time.perf_counter() - begin)
  return statistics.median(times)


def benchmark(config: Config, workdir: pathlib.Path, mesh: Mesh) -> None:
  """Writes benchmark.json and prints it; nothing has to be trained.

  Of a prior, network and sampler; and how the data of a run are read, which for
  a prior whose tokens are not there is left out.
  """
  row = {
    "device": jax.devices()[0].device_kind,
    "devices": mesh.devices.size,
  }
  there = True
  if config["stage"] == "prior":
    row |= sampling(config, mesh)
    there = (pathlib.Path(config["data"]["path"]) / tokens.MANIFEST).is_file()
  if there:
    task = actions.stage(config).make_task(config)
    row |= throughput.measure(config, task, mesh)
  else:
    print(f"{config['data']['path']} holds no tokens: no reading is timed.")
  workdir.mkdir(parents=True, exist_ok=True)
  weights.write_json(workdir / "benchmark.json", row)
  width = max(map(len, row))
  for name, value in row.items():
    text = f"{value:.4g}" if isinstance(value, float) else value
    print(f"{name:<{width}}  {text}")


def sampling(config: Config, mesh: Mesh) -> dict[str, Any]:
  """Times of the network and of a step of the sampler around it.

  The network is timed on config.sample.batch images with random weights, the
  sampler by itself: one step more of it around a network of one addition per
  logit, which is counted as the sampler's.
  """
  system = build_system(config)
  prior = pipeline.build_prior(config["prior"])
  shape = config["sample"]["batch"], int(np.prod(system.net.grid))
  with jax.set_mesh(mesh):
    once, own = network(system, shape), step(config, prior, shape)
  return {
    "images": shape[0],
    "tokens": shape[1],
    "codes": prior.vocab_size,
    "network_seconds": once,
    "step_seconds": own,
    "sampler_share": own / once,
  }


def network(system: Any, shape: tuple[int, int]) -> float:
  """Seconds of one call on a batch [b n]; of a causal network, on one token."""
  key = jax.random.key(0)
  params = jax.jit(functools.partial(init_system, system))(key)
  request = {"label": jnp.zeros(shape[0], jnp.int32)}
  if system.text:
    words = jnp.zeros((shape[0], system.text.length), jnp.int32)
    request["words"] = words
    if "text" not in params:  # Frozen: its file is not needed for its time.
      params["text"] = jax.jit(system.text.init)(key, words)["params"]
  cond = jax.jit(lambda p: condition(system, p, request))(params)

  def model(params: Params) -> Model:
    return make_model(system.net, params["net"], cond)

  t = jnp.ones(shape[0])
  if not system.net.causal:
    call = jax.jit(lambda params, z: model(params).denoise(z, t))
    return seconds(call, params, blank(system.net, shape[0]))
  start = jax.jit(lambda params: model(params).cached.start(shape[0]))
  step = jax.jit(lambda params, *args: model(params).cached.step(*args, t)[0])
  token = jnp.zeros(shape[0], jnp.int32)
  return seconds(step, params, start(params), token, jnp.int32(shape[1] - 1))


def step(config: Config, prior: Any, shape: tuple[int, int]) -> float:
  """Seconds of one sampler step, all but the network."""
  table = jax.nn.log_softmax(
    jax.random.normal(jax.random.key(0), (*shape, prior.vocab_size))
  )

  def run(steps: int) -> float:
    section, tokens = dict(config["sampler"]), shape[1]
    if "steps" in section:
      section["steps"] = steps
    else:
      tokens = steps  # Each step is a token.
    # How many tokens a call reveals does not change its cost.
    section.pop("schedule", None)
    if "critic" in section:  # Another network, and not part of a step.
      section["critic"] = lambda ids: 0.0 * ids
    dim = config["net"].get("code_dim", 0)
    canvas = config["net"]["grid"]
    draw = pipeline.build_sampler(section, prior, canvas=canvas)

    @jax.jit
    def call(key: Array, table: Array) -> Array:
      # Depends on z, so that no step can be done before the one in front.
      model = Model(
        lambda z, t: table + 0.0 * z.reshape(*z.shape[:2], -1)[..., :1],
        codes=jnp.ones((prior.vocab_size + 1, dim)) if dim else None,
        cached=Cached(
          start=lambda b: (),
          step=lambda cache, token, i, t: (
            table[:, 0] + 0.0 * token[:, None],
            cache,
          ),
        ),
      )
      return draw(key, model, prior, (shape[0], tokens))

    return seconds(call, jax.random.key(1), table)

  few, many = STEPS
  return (run(many) - run(few)) / (many - few)
