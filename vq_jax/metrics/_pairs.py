"""Distances of many vectors: matrix products, and exact where it matters.

n^2 distances of d numbers are affordable as a matrix product in float32 only,
|x|^2 + |y|^2 - 2 x y, which cancels. So a product decides where its error
cannot matter, and sums of squared differences in float64 decide the rest, a few
pairs in a million. What comes out is exact: it depends on no block, batch or
number of devices. The rows of a block are split over the devices of this host.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vq_jax.types import Array

_ROWS = 512  # Of a block, on each device: 100 MB for 50,000 columns.
SPARE = 5  # Candidates for the k-th neighbour beyond k.
_CHUNK = 1 << 17  # Numbers in a float64 difference of pairs: 1 MB.


class Cloud(NamedTuple):
  """Vectors near the origin, on the devices.

  Attributes:
    exact: as they were given, float32 [n d], on the host.
    moved: minus a common centre, float32 [n d]: short vectors cancel less.
    norms: their squared lengths, float32 [n].
  """

  exact: np.ndarray
  moved: Array
  norms: Array


class Inside(NamedTuple):
  """Which vectors lie in which balls.

  Attributes:
    balls: how many balls of x each y lies in, int64 [m].
    holds: whether the ball of x holds some y, bool [n].
    lies: whether x lies in a ball of some y, bool [n].
  """

  balls: np.ndarray
  holds: np.ndarray
  lies: np.ndarray


def cloud(x: np.ndarray, centre: np.ndarray) -> Cloud:
  """x float32 [n d] about `centre` [d]."""
  centre = np.asarray(centre, np.float32)
  moved, norms = _move(jax.device_put(x, sharding(P())), centre)
  return Cloud(x, moved, norms)


def exact(
  x: np.ndarray, i: np.ndarray, y: np.ndarray, j: np.ndarray
) -> np.ndarray:
  """|x_i - y_j|^2 in float64: vectors [n d], [m d], numbers [p] -> [p].

  Each is a sum of its own, so that equal pairs are equal to the last digit.
  """
  result = np.empty(len(i))
  step = max(_CHUNK // max(x.shape[1], 1), 1)
  for first in range(0, len(i), step):
    part = slice(first, first + step)
    gap = x[i[part]].astype(np.float64) - y[j[part]]
    result[part] = np.square(gap).sum(axis=1)
  return result


def radii(x: Cloud, k: int) -> np.ndarray:
  """Squared distance to the k-th nearest other row: float64 [n].

  Args:
    x: more than k vectors.
    k: 1 is the nearest.

  Returns:
    Exact up to float64 rounding of the sum.
  """
  n = len(x.exact)
  count = min(k + SPARE, n - 1)
  result = np.empty(n)
  for rows in blocks(n, _ROWS):
    low, index = map(np.asarray, _nearest(x.moved, x.norms, rows, count))
    near = exact(x.exact, np.repeat(rows, count), x.exact, index.ravel())
    near = near.reshape(index.shape)
    kth = np.partition(near, k - 1, axis=1)[:, k - 1]
    # What is no candidate is no nearer than the bound of the last of them.
    doubtful = (kth > low[:, -1]) & (kth > 0) & (count < n - 1)
    for i in np.flatnonzero(doubtful):
      kth[i] = _kth(x.exact, rows[i], k)
    result[rows] = kth
  return result


def inside(
  x: Cloud, y: Cloud, x_radii: np.ndarray, y_radii: np.ndarray
) -> Inside:
  """Compares all distances of two sets with the radii of both.

  Balls are open: a point at the very radius is outside.

  Args:
    x: n vectors.
    y: m vectors about the same centre.
    x_radii: squared [n].
    y_radii: squared [m].

  Returns:
    Exact counts.
  """
  balls = np.zeros(len(y.exact), np.int64)
  holds, lies = (np.zeros(len(x.exact), bool) for _ in range(2))
  for rows in blocks(len(x.exact), _ROWS):
    found = _compare(
      (x.moved, x.norms, x_radii), rows, (y.moved, y.norms, y_radii)
    )
    hits, own, other, doubtful = map(np.asarray, found)
    balls += hits
    holds[rows], lies[rows] = own, other
    i, j = np.divmod(np.flatnonzero(doubtful), len(y.exact))
    i = rows[i]
    squares = exact(x.exact, i, y.exact, j)
    hit = squares < x_radii[i]
    balls += np.bincount(j[hit], minlength=len(balls))
    holds[i[hit]] = True
    lies[i[squares < y_radii[j]]] = True
  return Inside(balls, holds, lies)


def sharding(spec: P) -> NamedSharding:
  """Over the devices of this host; every host does the same work."""
  return NamedSharding(Mesh(np.array(jax.local_devices()), ("rows",)), spec)


def blocks(n: int, rows: int) -> Iterator[np.ndarray]:
  """Numbers 0..n-1 in blocks of one size, at most `rows` for each device.

  The last number fills what is left of the last block.
  """
  devices = len(jax.local_devices())
  size = devices * min(rows, -(-n // devices))
  for first in range(0, n, size):
    yield np.minimum(np.arange(first, first + size), n - 1)


@jax.jit
def _move(x: Array, centre: Array) -> tuple[Array, Array]:
  """x - centre, and squared lengths: [n d] -> [n d], [n]."""
  moved = x - centre
  return moved, jnp.sum(jnp.square(moved), axis=1)


def _bounds(
  x: Array, x_norms: Array, rows: Array, y: Array, y_norms: Array
) -> tuple[Array, Array]:
  """Between what squared distances lie, of x[rows] and y: [r m] twice."""
  part = jax.lax.with_sharding_constraint(x[rows], sharding(P("rows")))
  product = jnp.matmul(part, y.T, precision=jax.lax.Precision.HIGHEST)
  squares = x_norms[rows][:, None] + y_norms
  # A sum of d products in float32 errs by less than d 2^-24 of the sum of their
  # sizes, and 2 |x y| <= |x|^2 + |y|^2; the norms err likewise.
  slack = (2 * x.shape[1] + 32) * 2.0**-24
  low = (1.0 - slack) * squares - 2.0 * product
  return low, low + 2.0 * slack * squares


@functools.partial(jax.jit, static_argnames="count")
def _nearest(
  x: Array, norms: Array, rows: Array, count: int
) -> tuple[Array, Array]:
  """The candidates of each row, nearest first: lower bounds, numbers [r count].

  Ranked by the bound, so that what is left out has none below the last.
  """
  low, _ = _bounds(x, norms, rows, x, norms)
  own = rows[:, None] == jnp.arange(len(x))
  values, index = jax.lax.top_k(jnp.where(own, -jnp.inf, -low), count)
  return -values, index


@jax.jit
def _compare(x: tuple, rows: Array, y: tuple) -> tuple[Array, ...]:
  """What is certain of x[rows] and y, both (moved, norms, radii).

  Returns:
    How many balls of x hold each y [m], whether a ball of x holds some y [r],
    whether x lies in some ball of y [r]; and the pairs that were left out of
    all three, since one of their comparisons is in doubt: bool [r m].
  """
  low, high = _bounds(*x[:2], rows, *y[:2])
  own, other = x[2].astype(jnp.float32)[rows][:, None], y[2].astype(jnp.float32)
  # A radius of 0 holds nothing, whatever the bounds say.
  doubt = (low < own) & (high >= own) & (own > 0)
  doubt |= (low < other) & (high >= other) & (other > 0)
  held, lying = (high < own) & ~doubt, (high < other) & ~doubt
  fresh = (rows != jnp.roll(rows, 1)).at[0].set(True)[:, None]
  hits = jnp.sum(held & fresh, axis=0)
  return hits, held.any(axis=1), lying.any(axis=1), doubt & fresh


def _kth(x: np.ndarray, i: int, k: int) -> float:
  """Squared distance of row i to its k-th neighbour, by all distances."""
  others = np.delete(np.arange(len(x)), i)
  found = exact(x, np.full(len(others), i), x, others)
  return np.partition(found, k - 1)[k - 1]
