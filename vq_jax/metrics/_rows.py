"""Sets of vectors for metrics that compare pairs of them, and so keep them all.

Subsets, splits and starting points are drawn by number. Where the batches have
an `index`, a result does not depend on the order in which they come.
"""

from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch


class Rows(NamedTuple):
  """Vectors that are kept whole, in the order of their numbers.

  Attributes:
    arrays: float32 [b d], one a batch.
    numbers: [b], which example each row is.
  """

  arrays: tuple[np.ndarray, ...] = ()
  numbers: tuple[np.ndarray, ...] = ()

  def add(self, name: str, batch: Batch) -> "Rows":
    """With the rows of `batch[name]` [b d].

    They are numbered by `batch["index"]` [b], or else as they come.

    Raises:
      ValueError: not finite, not 2-D, or another d than before.
    """
    about = {key: batch[key] for key in (name, "index", "mask") if key in batch}
    found = _fold.present(about, name, "index")
    x = _fold.finite(name, found[name]).astype(np.float32)
    if self.arrays and x.shape[1:] != self.arrays[0].shape[1:]:
      raise ValueError(
        f"{name}: vectors of {self.arrays[0].shape[1:]}, then {x.shape[1:]}."
      )
    seen = sum(map(len, self.arrays))
    number = found.get("index", seen + np.arange(len(x))).astype(np.int64)
    return Rows((*self.arrays, x), (*self.numbers, number))

  def joined(self) -> np.ndarray:
    """All rows [n d] by their numbers, whatever order they came in.

    Raises:
      ValueError: two rows have one number.
    """
    if not self.arrays:
      return np.zeros((0, 0), np.float32)
    numbers = np.concatenate(self.numbers)
    order = np.argsort(numbers, kind="stable")
    twice = np.flatnonzero(np.diff(numbers[order]) == 0)
    if len(twice):
      number = numbers[order][twice[0]]
      raise ValueError(
        f"{len(twice)} examples came twice, such as number {number}."
      )
    # Row by row into place: concatenation first would be a copy more.
    result = np.empty((len(numbers), self.arrays[0].shape[1]), np.float32)
    place, first = np.argsort(order), 0
    for array in self.arrays:
      result[place[first : first + len(array)]] = array
      first += len(array)
    return result


class Pair(NamedTuple):
  """The rows of two sets, which may differ in size."""

  real: Rows = Rows()
  fake: Rows = Rows()

  def add(self, batch: Batch, suffix: str) -> "Pair":
    """With `real_<suffix>` or `fake_<suffix>` [b d], or both.

    Raises:
      ValueError: neither is there, or see `Rows.add`.
    """
    names = [f"{side}_{suffix}" for side in ("real", "fake")]
    found = _fold.present(batch, *names)
    sides = (
      rows.add(name, batch) if name in found else rows
      for name, rows in zip(names, self, strict=True)
    )
    return Pair(*sides)

  def joined(self, least: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Both sets [n d].

    Raises:
      ValueError: a set has fewer than `least` rows, which `what` explains, or
        they differ in d.
    """
    real, fake = self.real.joined(), self.fake.joined()
    if min(len(real), len(fake)) < least or real.shape[1] != fake.shape[1]:
      raise ValueError(
        f"{what} needs {least} examples or more of one width in both sets; got "
        f"real {real.shape} and fake {fake.shape}."
      )
    return real, fake
