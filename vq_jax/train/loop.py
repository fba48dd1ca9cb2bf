"""`fit`: the one training loop."""

import collections
import math
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vq_jax import plugins
from vq_jax.train import feed, layout
from vq_jax.train.checkpoint import Store
from vq_jax.train.log import Log, progress
from vq_jax.train.task import State, Task, guarded

# Updates that may be queued on the device. Enough to hide the host, few enough
# that the CPU backend's thread pool does not fill with waiting collectives.
QUEUE = 4


class Stopped(Exception):
  """The run was asked to stop and has saved its state."""


def fit(
  task: Task,
  mesh: Mesh,
  store: Store,
  log: Log,
  *,
  steps: int,
  batch: int,
  seed: int,
  every: Mapping[str, int],
  loader: feed.Loader | None = None,
) -> State:
  """Trains to `steps` updates, from the last checkpoint if there is one.

  Args:
    task: what is trained.
    mesh: the devices.
    store: where checkpoints go.
    log: where numbers and pictures go.
    steps: updates in all, earlier runs included.
    batch: images per update, over all hosts.
    seed: with the step, determines data order, noise and initialisation.
    every: updates between `log`, `evaluate` and `save`, and `patience`: after
      that many evaluations without a better one training ends; 0 never ends it.
    loader: how examples are chosen and read; None is the defaults.

  Returns:
    The state after `steps` updates, or fewer where patience ended, saved.

  Raises:
    FloatingPointError: a loss or gradient was not finite; names the step. The
      last good state is saved.
    Stopped: SIGTERM arrived; the state is saved.
    ValueError: the batch does not divide over the devices, or a period is not
      positive.
  """
  layout.check_batch(batch, mesh, "config.batch")
  plugins.call(check_every, every, "config.every")
  check_patience(every, store)
  key_init, key_steps = jax.random.split(jax.random.key(seed))
  state, where = start(task, mesh, store, key_init)
  update = jax.jit(
    guarded(task.update), donate_argnums=0, out_shardings=(where, None)
  )
  first = int(state.step)
  if exhausted(every, store, first):
    return state
  window = Window(batch)
  loader, left = loader or feed.Loader(), range(first, steps)
  batches = feed.feed(task, mesh, batch, seed, left, loader)
  with jax.set_mesh(mesh), on_sigterm() as stop, batches as rows:
    bar = progress(range(first + 1, steps + 1), steps, "train", initial=first)
    for step in bar:
      state, metrics = update(state, next(rows), key_steps)
      window.add(metrics, rows.waited)
      stopping = agreed(stop, step % every["log"] == 0)
      if step % every["log"] == 0 or step == steps or stopping:
        values = window.mean()
        check_finite(state, step, store)
        log.scalars(step, values)
        bar.set_postfix(loss=f"{values['train/loss']:.4f}")
      results = None
      if step % every["evaluate"] == 0 or step == steps:
        check_finite(state, step, store)
        results = evaluate(task, state, log, step)
        window.restart()
      if step % every["save"] == 0 or step == steps or stopping:
        check_finite(state, step, store)
        store.save(step, state, results)
      if stopping and step < steps:
        raise Stopped(f"Stopped at step {step}; the state is saved.")
      if results and exhausted(every, store, step):
        break
  return state


def check_every(log: int, evaluate: int, save: int, patience: int = 0) -> None:
  """ValueError unless every period is at least one update."""
  periods = {"log": log, "evaluate": evaluate, "save": save}
  for name, period in periods.items():
    if period < 1:
      raise ValueError(
        f"config.every.{name} is {period}; it counts updates, 1 or more."
      )


def check_patience(every: Mapping[str, int], store: Store) -> None:
  """ValueError unless patience, if there is any, can tell what is better."""
  patience = every.get("patience", 0)
  if patience < 0:
    raise ValueError(
      f"config.every.patience is {patience}; it counts evaluations, 0 or more."
    )
  if patience and (every["evaluate"] % every["save"] or not store.best):
    raise ValueError(
      "config.every.patience needs config.keep.best, and evaluations that are"
      " saved: config.every.evaluate must be a multiple of config.every.save."
    )


def exhausted(every: Mapping[str, int], store: Store, step: int) -> bool:
  """Whether the best checkpoint is `patience` evaluations old; says so.

  The checkpoints are all it looks at, so that a resumed run ends where an
  unbroken one does.
  """
  patience, best = every.get("patience", 0), store.best_step()
  if not patience or best is None or step < best + patience * every["evaluate"]:
    return False
  print(
    f"{store.best} has not improved in {patience} evaluations since step"
    f" {best}: training ends at step {step}."
  )
  return True


def agreed(stop: threading.Event, meeting: bool) -> bool:
  """Whether to stop after this update, on all hosts alike.

  A save needs every host, but a signal reaches them at different updates: where
  there are several they ask each other, at updates where all are `meeting`.
  """
  if jax.process_count() == 1:
    return stop.is_set()
  asked = np.array(stop.is_set())
  return meeting and bool(multihost_utils.process_allgather(asked).any())


def start(
  task: Task, mesh: Mesh, store: Store, key: jax.Array
) -> tuple[State, Any]:
  """(state, shardings): the last checkpoint, or a new state."""
  abstract = jax.eval_shape(task.init, key)
  where = layout.layout(abstract, mesh)
  if store.latest() is not None:
    return store.restore(abstract, where), where
  with jax.set_mesh(mesh):
    state = jax.jit(task.init, out_shardings=where)(key)
  if task.warm:
    params = task.warm(jax.device_get(state.params))
    state = state._replace(
      params=jax.device_put(params, where.params),
      ema=jax.device_put(params, where.ema),
    )
  return state, where


def evaluate(task: Task, state: State, log: Log, step: int) -> dict[str, float]:
  """Validation numbers and pictures of one state, logged and returned."""
  results = {f"validation/{k}": v for k, v in task.evaluate(state).items()}
  log.scalars(step, results)
  for name, draw in task.pictures.items():
    log.picture(step, name, draw(state))
  return results


def check_finite(state: State, step: int, store: Store) -> None:
  """FloatingPointError, after saving, if an update was not finite."""
  if bool(state.ok):
    return
  good = int(state.step)
  store.save(good, state._replace(ok=jax.numpy.ones_like(state.ok)))
  store.close()
  raise FloatingPointError(
    f"The loss or its gradient was not finite at step {good + 1} (noticed at"
    f" step {step}); the last good state, step {good}, is saved. Lower"
    " config.optimizer.lr or set config.optimizer.clip_norm, and run the same"
    " command again."
  )


class Window:
  """Metrics since the last log, kept on the device until they are asked for."""

  def __init__(self, batch: int):
    self.batch = batch
    self.rows: list[dict] = []
    self.queue: collections.deque = collections.deque()
    self.restart()

  def restart(self) -> None:
    """Starts the clock; work that is not training does not count."""
    self.begin, self.counted = time.perf_counter(), 0
    self.waited = 0.0

  def add(self, metrics: dict, waited: float) -> None:
    """One update's metrics; waits for the update QUEUE steps before.

    waited: seconds until its batch was there. While updates are queued the
    device has work meanwhile, but they cannot queue up if data are slower.
    """
    self.rows.append(metrics)
    self.counted += 1
    self.waited += waited
    self.queue.append(metrics["loss"])
    if len(self.queue) > QUEUE:
      jax.block_until_ready(self.queue.popleft())

  def mean(self) -> dict[str, float]:
    """Means since the last call, images per second, data_wait_share."""
    rows = jax.device_get(self.rows)
    values = {
      f"train/{name}": float(np.mean([row[name] for row in rows]))
      for name in rows[0]
    }
    seconds = max(time.perf_counter() - self.begin, 1e-9)
    values["images_per_second"] = self.counted * self.batch / seconds
    values["data_wait_share"] = self.waited / seconds
    self.rows = []
    self.restart()
    return {k: v for k, v in values.items() if math.isfinite(v)}


class on_sigterm:
  """An event that SIGTERM sets, in the main thread, while the block runs."""

  def __enter__(self) -> threading.Event:
    """Installs the handler."""
    event = threading.Event()
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._old = signal.signal(signal.SIGTERM, lambda *_: event.set())
    return event

  def __exit__(self, *_: Any) -> None:
    """Puts the old handler back."""
    if self._main:
      signal.signal(signal.SIGTERM, self._old)
