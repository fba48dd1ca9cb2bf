"""A training problem of four weights, as a stage of `vq_jax.main`.

Real config, checkpoints, log and modes; nothing that takes time to compile:

  python tests/toy.py --config=tests/toy.py --workdir=DIRECTORY
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from vq_jax import main, plugins
from vq_jax.train import actions, checkpoint, layout, loop, optimizer
from vq_jax.train.log import Log
from vq_jax.train.task import State, Task, apply_gradients, new_state

WEIGHTS = np.array([1.0, -2.0, 0.5])
EXAMPLES = 21  # Not a multiple of the batch: batches span epochs.


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """`c.data.poison` makes the loss of that update NaN while lr > 0.1."""
  del arg
  c = ml_collections.ConfigDict()
  c.stage = "toy"
  c.seed = 0
  c.init_from = ""
  c.steps = 6
  c.batch = 8
  c.data = dict(poison=0)
  c.optimizer = dict(lr=0.05, warmup_steps=2, decay="constant", clip_norm=1.0)
  c.ema = dict(decay=0.9)
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.every = dict(log=1, evaluate=2, save=1)
  c.keep = dict(latest=2, best="validation/error", mode="min")
  return c


def make_task(config) -> Task:
  """Linear regression; `extra` remembers every example, and their order."""
  transform = plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  poison = config["data"]["poison"] if config["optimizer"]["lr"] > 0.1 else 0
  x = np.random.default_rng(0).normal(size=(EXAMPLES, 3)).astype(np.float32)
  source = [
    {"id": np.int32(i), "x": row, "y": np.float32(row @ WEIGHTS + 0.1)}
    for i, row in enumerate(x)
  ]

  def init(key) -> State:
    params = {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}
    return new_state(params, transform.init(params), jnp.uint32(0))

  def update(state: State, batch, key):
    noise = 0.01 * jax.random.normal(key, batch["y"].shape)

    def loss(params):
      y = batch["x"] @ params["w"] + params["b"]
      return jnp.mean((y - batch["y"] - noise) ** 2)

    value, grads = jax.value_and_grad(loss)(state.params)
    params, moments = apply_gradients(transform, grads, value, state)
    step = state.step + 1
    value = jnp.where(step == poison, jnp.nan, value) if poison else value
    ema = optimizer.average(state.ema, params, step, **config["ema"])
    powers = jnp.uint32(31) ** jnp.arange(len(noise), dtype=jnp.uint32)
    seen = jnp.sum(powers * (batch["id"].astype(jnp.uint32) + 1))
    extra = state.extra * jnp.uint32(1_000_003) + seen
    metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
    return State(step, state.ok, params, ema, moments, extra), metrics

  def error(state: State) -> dict[str, float]:
    return {"error": float(jnp.sum((state.ema["w"] - WEIGHTS) ** 2))}

  picture = lambda state: np.full((4, 6, 3), int(state.step), np.uint8)  # noqa: E731
  return Task(
    init, update, source, ("id", "x", "y"), error, {"square": picture}
  )


def initial(config):
  """Key -> fresh weights."""
  return lambda key: make_task(config).init(key).params


def one_device() -> Mesh:
  """A mesh of the first device alone."""
  return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), layout.AXES)


def run(workdir: pathlib.Path, config, mesh: Mesh | None = None) -> State:
  """Trains in this process; returns the final state on the host."""
  config = ml_collections.ConfigDict(config).to_dict()
  store = checkpoint.Store(workdir, config, **config["keep"])
  log = Log(workdir)
  try:
    state = loop.fit(
      make_task(config),
      mesh or one_device(),
      store,
      log,
      **{key: config[key] for key in ("steps", "batch", "seed", "every")},
    )
    return jax.device_get(state)
  finally:
    store.close()
    log.close()


def stage_is_toy() -> None:
  """Makes every mode take this file for config.stage."""
  actions.stage = lambda config: sys.modules[__name__]


def command(workdir: pathlib.Path, *flags: str) -> list[str]:
  """The words that train in a process of its own."""
  program = str(pathlib.Path(__file__))
  return [
    sys.executable,
    program,
    f"--config={program}",
    f"--workdir={workdir}",
    *flags,
  ]


if __name__ == "__main__":
  stage_is_toy()
  main.entry()
