"""Examples -> batches. The order is a function of (seed, step) alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vq_jax import plugins
from vq_jax.data import _ahead, _order, _transforms

Source = Sequence[Mapping[str, Any]]
BALANCES = ("", "class")


def stack(examples: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict:
  """Examples -> {key: array [b ...], or list of str}."""
  batch = {}
  for key in keys:
    column = [example[key] for example in examples]
    batch[key] = column if isinstance(column[0], str) else np.stack(column)
  return batch


class Shuffled:
  """Endless shuffled batches that know no history.

  Every epoch is one permutation, drawn from (seed, epoch); a batch may span two
  epochs, so that no example is lost. What is random about an example is drawn
  from (seed, its position in the order). To resume, ask for the next step.
  """

  def __init__(
    self,
    source: Source,
    keys: Sequence[str],
    batch: int,
    seed: int,
    balance: str = "",
  ):
    """balance: "class" shows every class equally often, see `_order.balanced`.

    Raises:
      ValueError: no data, an unknown balance, or no classes to balance.
    """
    if not len(source):
      raise ValueError("The training data is empty.")
    self.source, self.keys, self.batch, self.seed = source, keys, batch, seed
    self._order = make_order(source, seed, balance)

  def indices(self, step: int) -> np.ndarray:
    """Example numbers [batch] of the batch for update number `step`, from 0."""
    return self._order(self._positions(step))

  def rows(
    self,
    step: int,
    process: int = 0,
    processes: int = 1,
    run: _ahead.Run = map,
  ) -> dict:
    """This process's share of that batch, read by `run`."""
    positions = np.split(self._positions(step), processes)[process]
    examples = run(self._read, positions, self._order(positions))
    return stack(list(examples), self.keys)

  def _positions(self, step: int) -> np.ndarray:
    return np.arange(step * self.batch, (step + 1) * self.batch)

  def _read(self, position: int, i: int) -> Mapping[str, Any]:
    """An example as training sees it: changed at random, if the source can."""
    if not hasattr(self.source, "draw"):
      return self.source[int(i)]
    rng = _transforms.randomness(self.seed, int(position))
    return self.source.draw(int(i), rng)


def make_order(source: Source, seed: int, balance: str) -> _order.Order:
  """config.loader.balance -> the order of the examples."""
  if balance not in BALANCES:
    raise ValueError(
      plugins.unknown(balance, BALANCES, "config.loader.balance is")
    )
  if not balance:
    return _order.shuffled(len(source), seed)
  labels = getattr(source, "labels", None)
  if labels is None:
    raise ValueError(
      "config.loader.balance = 'class' needs data whose classes are known"
      " without reading them; these are not."
    )
  return _order.balanced(np.asarray(labels), seed)


def padded(
  source: Source, keys: Sequence[str], batch: int, limit: int | None = None
) -> Iterator[dict]:
  """Every example once, in order, in batches of one size.

  The last batch repeats its last example; `mask` [b] is False there, so that a
  metric neither drops nor double-counts an image. The next ones are read while
  one is in use.
  """
  count = len(source) if limit is None else min(limit, len(source))
  with _ahead.threads() as run:

    def rows(first: int) -> dict:
      where = np.arange(first, first + batch)
      examples = run(source.__getitem__, np.minimum(where, count - 1).tolist())
      return stack(list(examples), keys) | {"mask": where < count}

    with _ahead.Ahead(rows, range(0, count, batch)) as batches:
      yield from batches
