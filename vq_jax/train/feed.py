"""Batches on their way to the devices while an update is computed."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from vq_jax.data import _ahead, _loader
from vq_jax.train import layout
from vq_jax.train.task import Task


@dataclasses.dataclass(frozen=True)
class Loader:
  """config.loader.

  Attributes:
    balance: "class" shows every class equally often; empty, every example.
    threads: that read and decode, on each host; 0 is one a core. The batches do
      not depend on it.
    ahead: batches that lie on the devices, or are on their way there.
  """

  balance: str = ""
  threads: int = 0
  ahead: int = 2

  def __post_init__(self) -> None:
    """ValueError: a number out of range."""
    for name, least in (("threads", 0), ("ahead", 1)):
      if getattr(self, name) < least:
        raise ValueError(
          f"config.loader.{name} is {getattr(self, name)}; {least} or more."
        )


@contextlib.contextmanager
def feed(
  task: Task, mesh: Mesh, batch: int, seed: int, steps: range, loader: Loader
) -> Iterator[_ahead.Ahead]:
  """The batches of these steps, counted from 0, as global arrays.

  Args:
    task: whose source is read.
    mesh: the devices.
    batch: images per update, over all hosts.
    seed: of the order, and of what is random about an example.
    steps: updates.
    loader: how.

  Yields:
    An iterator, which also says how long it was waited for.

  Raises:
    ValueError: there are no data, or no classes to balance.
  """
  share = (jax.process_index(), jax.process_count())
  shuffled = _loader.Shuffled(
    task.source, task.inputs, batch, seed, loader.balance
  )
  with _ahead.threads(loader.threads) as run:

    def rows(step: int) -> dict:
      return layout.place_batch(shuffled.rows(step, *share, run), mesh)

    with _ahead.Ahead(rows, steps, loader.ahead) as batches:
      yield batches
