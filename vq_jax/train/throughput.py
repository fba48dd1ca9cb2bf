"""How fast examples are read, and what training waits for them."""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from vq_jax import plugins
from vq_jax.data import _ahead, _loader
from vq_jax.train import feed, layout
from vq_jax.train.task import Task, guarded

Config = Mapping[str, Any]
SECONDS = 1.0  # That a number is measured for, at least,
STEPS = 8  # and so many updates.


def measure(config: Config, task: Task, mesh: Mesh) -> dict[str, float]:
  """Images read per second, and the share of training that waits for them.

  Args:
    config: of the run: batch, seed, and loader if there is one.
    task: what would be trained; its weights are random.
    mesh: the devices.

  Returns:
    read_per_second_per_core, of one thread: decoded, cropped and stacked;
    read_per_second, of `threads` threads; train_step_seconds; and
    data_wait_share, of those.

  Raises:
    ValueError: a wrong batch, or a wrong key of config.loader.
  """
  layout.check_batch(config["batch"], mesh, "config.batch")
  section = config.get("loader", {})
  loader = plugins.call(feed.Loader, section, "config.loader")
  threads = loader.threads or os.cpu_count() or 1
  return {
    "read_per_second_per_core": reading(config, task, loader, 1),
    "read_per_second": reading(config, task, loader, threads),
    "threads": threads,
    **waiting(config, task, mesh, loader),
  }


def reading(
  config: Config, task: Task, loader: feed.Loader, threads: int
) -> float:
  """Images per second that so many threads read."""
  size = config["batch"]
  shuffled = _loader.Shuffled(
    task.source, task.inputs, size, config["seed"], loader.balance
  )
  with _ahead.threads(threads) as run:

    def rows(step: int) -> dict:
      return shuffled.rows(step, run=run)

    with _ahead.Ahead(rows, range(2**31), loader.ahead) as batches:
      next(batches)  # Opens what has to be opened.
      begin, count = time.perf_counter(), 0
      for _ in lasting(1):
        next(batches)
        count += size
      return count / (time.perf_counter() - begin)


def waiting(
  config: Config, task: Task, mesh: Mesh, loader: feed.Loader
) -> dict[str, float]:
  """train_step_seconds and data_wait_share of updates, compiled before."""
  key = jax.random.key(config["seed"])
  where = layout.layout(jax.eval_shape(task.init, key), mesh)
  update = jax.jit(
    guarded(task.update), donate_argnums=0, out_shardings=(where, None)
  )
  steps, waited, times = range(2**31), [], []
  sizes = config["batch"], config["seed"]
  batches = feed.feed(task, mesh, *sizes, steps, loader)
  with jax.set_mesh(mesh), batches as rows:
    state = jax.jit(task.init, out_shardings=where)(key)
    state, _ = jax.block_until_ready(update(state, next(rows), key))
    for _ in lasting(STEPS):
      begin = time.perf_counter()
      state, _ = jax.block_until_ready(update(state, next(rows), key))
      times.append(time.perf_counter() - begin)
      waited.append(rows.waited)
  return {
    "train_step_seconds": sum(times) / len(times),
    "data_wait_share": sum(waited) / sum(times),
  }


def lasting(least: int) -> Iterator[int]:
  """0, 1, 2 and so on: at least so many, for at least SECONDS."""
  begin, number = time.perf_counter(), 0
  while number < least or time.perf_counter() - begin < SECONDS:
    yield number
    number += 1
