"""Kernel distance of features (Binkowski et al. 2018, arXiv:1801.01401).

With Inception pool features this is KID, as torch-fidelity computes it: the
mean of unbiased estimates on random subsets.
"""

from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _rows
from vq_jax.types import Batch

NEEDS = ("real_features", "fake_features")


class State(NamedTuple):
  """How subsets are drawn, and the features of both sets."""

  subsets: int
  subset_size: int
  seed: int
  sets: _rows.Pair = _rows.Pair()


def init(
  subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> State:
  """No example yet.

  Args:
    subsets: how many pairs of subsets are compared.
    subset_size: examples of each set in a subset.
    seed: of numpy's RandomState, which draws first a subset of the fakes and
      then one of the reals, without replacement.

  Returns:
    The empty state.

  Raises:
    ValueError: no subset, or one of fewer than two examples.
  """
  if subsets < 1 or subset_size < 2:
    raise ValueError(
      "kid needs a subset or more, of two examples or more; got"
      f" {subsets} of {subset_size}."
    )
  return State(subsets, subset_size, seed)


def update(state: State, batch: Batch) -> State:
  """Adds examples to one set or to both.

  Args:
    state: what the earlier batches gave.
    batch: `real_features` or `fake_features` [b d], or both; optional `mask`
      [b] and `index` [b], numbers of the examples: without them the subsets
      depend on the order of the batches. The sets may differ in size.

  Returns:
    The new state.

  Raises:
    ValueError: neither key is there, or features of another d, or not finite.
  """
  return state._replace(sets=state.sets.add(batch, "features"))


def compute(state: State) -> dict[str, float]:
  """`kid`, the mean over subsets, and `kid_std`, their standard deviation.

  Raises:
    ValueError: a set is smaller than a subset, or the sets differ in d.
  """
  size = state.subset_size
  real, fake = state.sets.joined(size, f"kid with subset_size={size}")
  rng = np.random.RandomState(state.seed)
  values = []
  for _ in range(state.subsets):
    x = fake[rng.choice(len(fake), size, replace=False)]
    y = real[rng.choice(len(real), size, replace=False)]
    values.append(_unbiased(x.astype(np.float64), y.astype(np.float64)))
  return {"kid": float(np.mean(values)), "kid_std": float(np.std(values))}


def _unbiased(x: np.ndarray, y: np.ndarray) -> float:
  """MMD^2_u of Gretton et al. 2012, eq. 3, on subsets [m d] of one size."""
  m = len(x)
  own = _kernel(x, x), _kernel(y, y)
  within = sum(k.sum() - np.trace(k) for k in own) / (m * (m - 1))
  return within - 2.0 * _kernel(x, y).mean()


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """(x y / d + 1)^3 of all pairs: [m d] twice -> [m m]."""
  return (x @ y.T / x.shape[1] + 1.0) ** 3
