"""Precision, recall (arXiv:1904.06991), density, coverage (arXiv:2002.09797).

A real or fake example owns the ball that reaches to its k-th neighbour in its
own set. Balls are open, and an example is not its own neighbour.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("real_features", "fake_features")

# Distances exist one block of rows at a time: 200 MB for 50,000 columns.
_ROWS, _COLUMNS = 512, 4096


class State(NamedTuple):
  """The features of both sets, float32 [b d], one array a batch."""

  nearest_k: int
  real: tuple[np.ndarray, ...] = ()
  fake: tuple[np.ndarray, ...] = ()


def init(nearest_k: int = 3) -> State:
  """No example yet.

  Args:
    nearest_k: which neighbour a ball reaches to; published numbers use 3 or 5.

  Returns:
    The empty state.

  Raises:
    ValueError: nearest_k is not positive.
  """
  if nearest_k < 1:
    raise ValueError(f"nearest_k must be 1 or more, not {nearest_k}.")
  return State(nearest_k)


def update(state: State, batch: Batch) -> State:
  """Adds examples to one set or to both.

  Args:
    state: what the earlier batches gave.
    batch: `real_features` or `fake_features` [b d], or both; optional `mask`
      [b] for whichever is there. The sets may differ in size.

  Returns:
    The new state.

  Raises:
    ValueError: neither key is there, or features that are not finite.
  """
  features = _fold.present(batch, *NEEDS)
  for key, x in features.items():
    side = key.removesuffix("_features")
    seen = (*getattr(state, side), _fold.finite(key, x).astype(np.float32))
    state = state._replace(**{side: seen})
  return state


def compute(state: State) -> dict[str, float]:
  """The four numbers.

  Returns:
    `precision`: the fraction of fakes inside some real ball.
    `recall`: the fraction of reals inside some fake ball.
    `density`: real balls a fake lies in, over k, mean over fakes; may exceed 1.
    `coverage`: the fraction of reals whose own ball holds a fake.

  Raises:
    ValueError: a set has no more than nearest_k examples, or they differ in d.
  """
  real, fake = _joined(state.real), _joined(state.fake)
  k = state.nearest_k
  if min(len(real), len(fake)) <= k or real.shape[1] != fake.shape[1]:
    raise ValueError(
      f"prdc needs more than {k} examples of one width in both sets; got "
      f"real {real.shape} and fake {fake.shape}."
    )
  real_radii, fake_radii = _radii(real, k), _radii(fake, k)
  balls = np.zeros(len(fake), np.int64)  # Real balls around each fake.
  recalled, covered = 0, 0
  for block, distances in _distances(real, fake):
    own = real_radii[block]
    balls += (distances < own[:, None]).sum(axis=0)
    recalled += (distances < fake_radii).any(axis=1).sum()
    covered += (distances.min(axis=1) < own).sum()
  return {
    "precision": float(np.mean(balls > 0)),
    "recall": float(recalled / len(real)),
    "density": float(np.mean(balls) / k),
    "coverage": float(covered / len(real)),
  }


def _joined(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
  """One array [b d]; [0 0] if there is none."""
  return np.concatenate(arrays) if arrays else np.zeros((0, 0), np.float32)


def _radii(x: np.ndarray, k: int) -> np.ndarray:
  """Squared distance to the k-th nearest other row: [b d] -> [b]."""
  radii = np.empty(len(x))
  for block, distances in _distances(x, x):
    diagonal = np.arange(block.start, block.stop)
    distances[diagonal - block.start, diagonal] = np.inf  # Not its own.
    distances.partition(k - 1, axis=1)
    radii[block] = distances[:, k - 1]
  return radii


def _distances(
  x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
  """Squared distances in float64, by rows: slice of x, [rows len(y)]."""
  for i in range(0, len(x), _ROWS):
    a = x[i : i + _ROWS].astype(np.float64)
    distances = np.empty((len(a), len(y)))
    for j in range(0, len(y), _COLUMNS):
      b = y[j : j + _COLUMNS].astype(np.float64)
      norms = np.square(a).sum(1)[:, None] + np.square(b).sum(1)
      squared = norms - 2.0 * (a @ b.T)
      # Below the resolution of float32 features two rows are the same row;
      # what is left of the subtraction is noise, and `<` would read it.
      squared[squared < 1e-13 * norms] = 0.0
      distances[:, j : j + _COLUMNS] = squared
    yield slice(i, i + len(a)), distances
