"""Checkpoints: state, data position and resolved config in one directory."""

import errno
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from vq_jax import plugins, weights
from vq_jax.train.task import State
from vq_jax.types import Params

# What may differ between the command that started a run and the one that
# resumes it: how it is watched, used and placed, how long and how fast it
# learns, of what it writes tokens and how, where its data are by now and how
# many of them may be bad, whether they are verified, and by how many threads
# they are read.
FREE = (
  "every",
  "keep",
  "sampler",
  "sample",
  "evaluate",
  "mesh",
  "steps",
  "optimizer",
  "discriminator_optimizer",
  "splits",
  "tokenize",
  "data.path",
  "data.cache",
  "data.max_bad",
  "data.verify",
  "loader.threads",
  "loader.ahead",
)


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """The resolved config that a run directory was made with.

  Raises:
    FileNotFoundError: the directory holds no run.
    ValueError: its config.json is damaged.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{workdir} holds no run (no config.json); train one there first with"
      " --mode=train, or correct --workdir."
    )
  return weights.load_json(path, "delete it and train with --config again")


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Marks the directory as this config's, or refuses it.

  Raises:
    ValueError: the directory belongs to another config; names the first
      difference.
  """
  config = json.loads(json.dumps(config))
  if (workdir / "config.json").exists():
    differ(read_config(workdir), config, workdir)
  if jax.process_index() == 0:
    weights.write_json(workdir / "config.json", config)


def differ(old: dict[str, Any], new: dict[str, Any], where: Any) -> None:
  """ValueError if two resolved configs would train different things."""
  old, new = weights.flatten(old), weights.flatten(new)
  for name in sorted(set(old) | set(new)):
    a, b = old.get(name, "nothing"), new.get(name, "nothing")
    name = name.replace("/", ".")
    if a != b and not {name, name.partition(".")[0]} & set(FREE):
      raise ValueError(
        f"{where} belongs to a run with config.{name} = {a!r}, not {b!r};"
        " choose another --workdir, or pass the config of that run."
      )


class Store:
  """Asynchronous Orbax checkpoints; a save appears whole or not at all."""

  def __init__(
    self,
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    *,
    latest: int = 2,
    best: str = "",
    mode: str = "min",
  ):
    """Opens `<workdir>/checkpoints`.

    Args:
      workdir: the run directory.
      config: the resolved config, stored in every checkpoint.
      latest: how many of the newest to keep.
      best: validation metric of which the best checkpoint is kept as well;
        empty keeps none.
      mode: "min" or "max", which is best.
    """
    if mode not in ("min", "max"):
      raise ValueError(f"config.keep.mode is 'min' or 'max', not {mode!r}.")
    self.directory = (workdir / "checkpoints").absolute()
    self.config = json.loads(json.dumps(config))
    keep = [policies.LatestN(latest)]
    if best:
      keep.append(
        policies.BestN(
          get_metric_fn=lambda metrics: metrics[best],
          reverse=mode == "min",
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self.best = best
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(keep),
        best_fn=(lambda metrics: metrics[best]) if best else None,
        best_mode=mode,
      ),
    )

  def latest(self) -> int | None:
    """The newest saved step."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The step of the best checkpoint; None if none was evaluated."""
    return self._manager.best_step() if self.best else None

  def save(
    self, step: int, state: State, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Starts a save; the state may be donated as soon as this returns.

    Raises:
      OSError: the disk has no room; nothing is written.
      ValueError: `metrics` lacks the one that tells the best.
    """
    if metrics and self.best and self.best not in metrics:
      name = plugins.unknown(
        self.best, metrics, "No validation metric is called"
      )
      raise ValueError(f"config.keep.best: {name}")
    if step == self.latest():
      return
    check_room(self.directory, state)
    scored = bool(metrics and self.best)
    meta = {"config": self.config, "next_batch": step}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
      ),
      metrics={self.best: float(metrics[self.best])} if scored else None,
    )

  def restore(self, abstract: State, shardings: Any) -> State:
    """The newest state, placed as asked.

    Raises:
      ValueError: the checkpoint is of another network; names the tensor.
    """
    step = self.latest()
    self._check(step, "", abstract._asdict())
    target = _target(abstract, shardings)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    return self._manager.restore(step, args=args).state

  def weights(self, abstract: Params, shardings: Any) -> tuple[int, Params]:
    """(step, averaged weights) of the best checkpoint.

    The newest where no best is kept, or none was evaluated yet. Optimizer state
    is not read.

    Raises:
      FileNotFoundError: there is no whole checkpoint.
      ValueError: it belongs to another config; names the tensor.
    """
    step = self.best_step()
    step = self.latest() if step is None else step
    if step is None:
      raise FileNotFoundError(
        f"{self.directory.parent} has no checkpoint yet; train it first with"
        " --mode=train."
      )
    self._check(step, "ema/", {"ema": abstract})
    item = {"ema": _target(abstract, shardings)}
    args = ocp.args.PyTreeRestore(
      item=item,
      restore_args=ocp.checkpoint_utils.construct_restore_args(item),
      partial_restore=True,
    )
    restored = self._manager.restore(step, args=ocp.args.Composite(state=args))
    return step, restored.state["ema"]

  def close(self) -> None:
    """Waits for the last save."""
    self._manager.wait_until_finished()
    self._manager.close()

  def _check(self, step: int, part: str, abstract: Mapping[str, Any]) -> None:
    stored = stored_shapes(self.directory / str(step) / "state")
    wanted = _flat(abstract)
    stored = {k: v for k, v in stored.items() if k.startswith(part)}
    weights.check(stored, wanted, f"The checkpoint {self.directory}/{step}")


def stored_shapes(directory: pathlib.Path) -> dict[str, Any]:
  """Flat tensor names -> shapes of a stored tree; reads no tensor."""
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(directory).item_metadata.tree
  return _flat(tree)


def check_room(directory: pathlib.Path, tree: Any) -> None:
  """OSError, before anything is written, unless the tree fits on the disk."""
  need = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  directory.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(directory).free
  if free < need * 1.1:
    raise OSError(
      errno.ENOSPC,
      f"No space left on disk for a checkpoint of {need / 2**20:.0f} MiB"
      f" ({free / 2**20:.0f} MiB free); earlier checkpoints are untouched."
      " Make room and run the same command again",
      str(directory),
    )


def _target(abstract: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )


def _flat(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }
