"""CMMD: kernel distance of CLIP embeddings (arXiv:2401.09603).

No gaussian is assumed and few images are enough, but every pair is compared.
"""

from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold, _rows
from vq_jax.types import Batch

NEEDS = ("real_embedding", "fake_embedding")

_SIGMA = 10.0  # As published: the width of the kernel,
_SCALE = 1000.0  # and a factor for readability.
_ROWS = 1024  # Of a block of pairs: 400 MB for 50,000 columns.


class State(NamedTuple):
  """The embeddings of both sets."""

  sets: _rows.Pair = _rows.Pair()


def init() -> State:
  """No example yet."""
  return State()


def update(state: State, batch: Batch) -> State:
  """Adds examples to one set or to both.

  Args:
    state: what the earlier batches gave.
    batch: `real_embedding` or `fake_embedding` [b e] of any length, or both;
      optional `mask` [b] and `index` [b]. The sets may differ in size.

  Returns:
    The new state.

  Raises:
    ValueError: neither key is there, or embeddings of another e, or not finite.
  """
  return State(state.sets.add(batch, "embedding"))


def compute(state: State) -> dict[str, float]:
  """`cmmd`: 1000 times the biased squared MMD (Gretton et al. 2012, eq. 5).

  The kernel is exp(-|x - y|^2 / 200) of unit embeddings; a point is compared
  with itself as well, as in the published code.

  Raises:
    ValueError: a set is empty, they differ in e, or an embedding is zero.
  """
  pair = state.sets.joined(1, "cmmd")
  real, fake = (_fold.unit(n, x) for n, x in zip(NEEDS, pair, strict=True))
  squared = _within(real) + _within(fake) - 2.0 * _between(real, fake)
  return {"cmmd": float(_SCALE * squared)}


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """k(x, y) - 1 of unit vectors: [m e], [n e] -> [m n].

  Kernels of unit vectors are all nearly 1. The ones cancel in the distance,
  and without them no digit of it is lost.
  """
  squares = np.maximum(2.0 - 2.0 * (x @ y.T), 0.0)
  return np.expm1(squares * (-0.5 / _SIGMA**2))


def _between(x: np.ndarray, y: np.ndarray) -> float:
  """Mean over all pairs of the two sets."""
  parts = range(0, len(x), _ROWS)
  return sum(_kernel(x[i : i + _ROWS], y).sum() for i in parts) / (
    len(x) * len(y)
  )


def _within(x: np.ndarray) -> float:
  """Mean over all pairs of one set, each computed once."""
  total = 0.0
  for i in range(0, len(x), _ROWS):
    part = x[i : i + _ROWS]
    total += _kernel(part, part).sum()
    total += 2.0 * _kernel(part, x[i + _ROWS :]).sum()
  return total / len(x) ** 2
