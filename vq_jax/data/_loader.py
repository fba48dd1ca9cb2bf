"""Examples -> batches. The order is a function of (seed, step) alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Source = Sequence[Mapping[str, Any]]


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
  epochs, so that no example is lost. To resume, ask for the next step.
  """

  def __init__(
    self, source: Source, keys: Sequence[str], batch: int, seed: int
  ):
    if not len(source):
      raise ValueError("The training data is empty.")
    self.source, self.keys, self.batch, self.seed = source, keys, batch, seed
    self._cache: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

  def indices(self, step: int) -> np.ndarray:
    """Example numbers [batch] of the batch for update number `step`, from 0."""
    n = len(self.source)
    where = np.arange(step * self.batch, (step + 1) * self.batch)
    return np.array([self._order(p // n)[p % n] for p in where])

  def rows(self, step: int, process: int = 0, processes: int = 1) -> dict:
    """This process's share of that batch."""
    share = np.split(self.indices(step), processes)[process]
    return stack([self.source[int(i)] for i in share], self.keys)

  def _order(self, epoch: int) -> np.ndarray:
    if self._cache[0] != epoch:
      rng = np.random.default_rng([self.seed, epoch])
      self._cache = (epoch, rng.permutation(len(self.source)))
    return self._cache[1]


def padded(
  source: Source, keys: Sequence[str], batch: int, limit: int | None = None
) -> Iterator[dict]:
  """Every example once, in order, in batches of one size.

  The last batch repeats its last example; `mask` [b] is False there, so that a
  metric neither drops nor double-counts an image.
  """
  count = len(source) if limit is None else min(limit, len(source))
  for first in range(0, count, batch):
    where = np.minimum(np.arange(first, first + batch), count - 1)
    rows = stack([source[int(i)] for i in where], keys)
    yield rows | {"mask": np.arange(first, first + batch) < count}
