"""GIQA by nearest neighbours (Gu et al. 2020, arXiv:2003.08932).

An image is good if real images are near its features: its score is the sum of
1 / |x - y| over the k nearest reals y, in the L1 norm, as in the authors' code
(cientgu/GIQA, knn_score.py). Diversity is the same with the sets exchanged.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from vq_jax.metrics import _pairs, _rows
from vq_jax.types import Array, Batch

NEEDS = ("real_features", "fake_features")

_ROWS = 64  # Of a block, on each device.
_EPSILON = 1e-6  # On each difference: a copy scores 1e6 / d and not infinity.


class State(NamedTuple):
  """How many neighbours count, and the features of both sets."""

  k: int
  sets: _rows.Pair = _rows.Pair()


def init(k: int = 1) -> State:
  """No example yet; k: how many neighbours count. ValueError below 1."""
  if k < 1:
    raise ValueError(f"k must be 1 or more, not {k}.")
  return State(k)


def update(state: State, batch: Batch) -> State:
  """Adds examples to one set or to both.

  Args:
    state: what the earlier batches gave.
    batch: `real_features` or `fake_features` [b d], or both; optional `mask`
      [b] and `index` [b]. The sets may differ in size.

  Returns:
    The new state.

  Raises:
    ValueError: neither key is there, or features of another d, or not finite.
  """
  return state._replace(sets=state.sets.add(batch, "features"))


def compute(state: State) -> dict[str, float]:
  """Means of scores, which have the unit of 1 / features.

  Returns:
    `giqa_knn_quality`, the mean over fakes, and `giqa_knn_diversity`, that over
    reals with fakes for neighbours.

  Raises:
    ValueError: a set has fewer than k examples, or the sets differ in d.
  """
  real, fake = state.sets.joined(state.k, f"giqa_knn with k={state.k}")
  return {
    "giqa_knn_quality": float(np.mean(scores(fake, real, state.k))),
    "giqa_knn_diversity": float(np.mean(scores(real, fake, state.k))),
  }


def scores(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
  """Of every x [n d] among y [m d]: float64 [n]."""
  count = min(k + _pairs.SPARE, len(y))
  there = jax.device_put(y, _pairs.sharding(P()))
  result = np.empty(len(x))
  for rows in _pairs.blocks(len(x), _ROWS):
    part = jax.device_put(x[rows], _pairs.sharding(P("rows")))
    index = np.asarray(_nearest(part, there, count))
    gap = x[rows, None].astype(np.float64) - y[index] + _EPSILON
    away = np.partition(np.abs(gap).sum(axis=2), k - 1, axis=1)[:, :k]
    result[rows] = (1.0 / away).sum(axis=1)
  return result


@functools.partial(jax.jit, static_argnames="count")
def _nearest(x: Array, y: Array, count: int) -> Array:
  """Numbers of the y nearest to each x, in float32: [r d], [m d] -> [r count].

  More of them than are asked for, since the last digit may be wrong.
  """
  away = jnp.sum(jnp.abs(x[:, None] - y), axis=2)
  return jax.lax.top_k(-away, count)[1]
