"""Precision, recall (arXiv:1904.06991), density, coverage (arXiv:2002.09797).

A real or fake example owns the ball that reaches to its k-th neighbour in its
own set. Balls are open, and an example is not its own neighbour. With nearest_k
= 3 precision and recall are also those of arXiv:1904.06991, whose balls are
closed: the two differ where distances are equal, as they are between copies.
"""

from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _pairs, _rows
from vq_jax.types import Batch

NEEDS = ("real_features", "fake_features")


class State(NamedTuple):
  """Which neighbour a ball reaches to, and the features of both sets."""

  nearest_k: int
  sets: _rows.Pair = _rows.Pair()


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
    ValueError: neither key is there, or features of another d, or not finite.
  """
  return state._replace(sets=state.sets.add(batch, "features"))


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
  k = state.nearest_k
  real, fake = state.sets.joined(k + 1, f"prdc with nearest_k={k}")
  # Each set about its own mean, where radii are measured, and then about one.
  real_radii = _pairs.radii(_pairs.cloud(real, real.mean(0)), k)
  fake_radii = _pairs.radii(_pairs.cloud(fake, fake.mean(0)), k)
  centre = real.mean(axis=0)
  found = _pairs.inside(
    _pairs.cloud(real, centre),
    _pairs.cloud(fake, centre),
    real_radii,
    fake_radii,
  )
  return {
    "precision": float(np.mean(found.balls > 0)),
    "recall": float(np.mean(found.lies)),
    "density": float(np.mean(found.balls) / k),
    "coverage": float(np.mean(found.holds)),
  }
