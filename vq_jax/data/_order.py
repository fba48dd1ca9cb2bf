"""Which example comes when: computed for any position, remembered nowhere.

No list of what was seen is kept: a run goes on anywhere by knowing its step. Of
large sets no order is stored either, so that they cost no more than small ones.
"""

import functools
from collections.abc import Callable

import numpy as np

Order = Callable[[np.ndarray], np.ndarray]  # Positions [b] -> examples [b].

# Up to so many examples an epoch is NumPy's own permutation, any of all there
# are; those that `permute` computes only look as if they were.
STORED = 2**22
ROUNDS = 8  # With 4, some orders of five examples are rarer than others.


def shuffled(count: int, seed: int) -> Order:
  """Every example once an epoch, each epoch in an order of its own."""

  @functools.lru_cache(2)  # A batch may span two epochs.
  def stored(epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)

  def order(position: np.ndarray) -> np.ndarray:
    epoch, place = np.divmod(position, count)
    if count > STORED:
      return permute(place, count, mix(seed, 0, epoch))
    pairs = zip(epoch.tolist(), place, strict=True)
    return np.array([stored(e)[i] for e, i in pairs], np.int64)

  return order


def balanced(labels: np.ndarray, seed: int) -> Order:
  """Every class once in as many positions as there are classes.

  Of a class, every example once before any comes twice; examples of a rare one
  come more often than others.

  Args:
    labels: class ids [N], any integers.
    seed: another one gives another order.
  """
  classes, counts = np.unique(labels, return_counts=True)
  members = np.argsort(labels, kind="stable")
  first = np.cumsum(counts) - counts

  def order(position: np.ndarray) -> np.ndarray:
    turn, slot = np.divmod(position, len(classes))
    which = permute(slot, len(classes), mix(seed, 1, turn))
    count = counts[which]
    epoch, place = np.divmod(turn, count)
    place = permute(place, count, mix(seed, 2, which, epoch))
    return members[first[which] + place]

  return order


def permute(
  place: np.ndarray, count: np.ndarray | int, salt: np.ndarray
) -> np.ndarray:
  """Where `place` goes in a permutation of 0..count-1; elementwise.

  A Feistel network on a grid of at least `count` cells; who leaves 0..count-1
  walks on until he is back (Black and Rogaway, "Ciphers with arbitrary finite
  domains", 2002, sections 5 and 4).

  Args:
    place: 0..count-1 [b].
    count: one number, or [b].
    salt: uint64 [b], from `mix`: each draws a permutation.

  Returns:
    int64 [b].
  """
  out = np.array(place, np.uint64)
  count = np.broadcast_to(np.asarray(count, np.uint64), out.shape)
  rows = np.ceil(np.sqrt(count)).astype(np.uint64)
  columns = -(-count.astype(np.int64) // rows.astype(np.int64))
  columns = columns.astype(np.uint64)
  walking = np.ones(out.shape, bool)
  while walking.any():
    out[walking] = _scramble(
      *(x[walking] for x in (out, rows, columns, np.asarray(salt)))
    )
    walking = out >= count
  return out.astype(np.int64)


def _scramble(
  cell: np.ndarray, rows: np.ndarray, columns: np.ndarray, salt: np.ndarray
) -> np.ndarray:
  """A bijection of the cells of a grid: each half is shifted by the other's."""
  row, column = np.divmod(cell, columns)
  for _ in range(ROUNDS):
    salt = mix(salt)
    row = (row + mix(salt, column) % rows) % rows
    column = (column + mix(~salt, row) % columns) % columns
  return row * columns + column


def mix(*words: np.ndarray | int) -> np.ndarray:
  """A hash of integers, elementwise: uint64 of their common shape.

  Each word is added to a Weyl sequence and stirred as in SplitMix64 (Steele,
  Lea and Flood, 2014).
  """
  state = np.zeros(1, np.uint64)
  for word in words:
    word = np.asarray(word)
    if word.dtype != np.uint64:
      word = word.astype(np.int64).astype(np.uint64)
    state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
  return state
