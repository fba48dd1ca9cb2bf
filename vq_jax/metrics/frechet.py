"""Frechet distance between gaussians fitted to features (arXiv:1706.08500).

With Inception pool features this is FID, and of reconstructions rFID; with
other features the number is on another scale, so the caller names the extractor
in front of `fd`.
"""

import warnings
from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("real_features", "fake_features")


class Side(NamedTuple):
  """One set: moments, and float64 batches [b d] that wait to be added.

  Adding costs d^2, however few the rows: at d = 2048 small batches would cost
  more than the network that made them.
  """

  moments: _fold.Moments = _fold.Moments()
  waiting: tuple[np.ndarray, ...] = ()

  def add(self, x: np.ndarray) -> "Side":
    """With b more vectors [b d]; ValueError if d is another than before."""
    known = (
      self.waiting[0].shape[1:] if self.waiting else self.moments.mean.shape
    )
    if known and x.shape[1:] != known:
      raise ValueError(f"Vectors of {known}, then {x.shape[1:]}.")
    side = Side(self.moments, (*self.waiting, x))
    full = sum(map(len, side.waiting)) >= x.shape[1]
    return Side(side.all()) if full else side

  def all(self) -> _fold.Moments:
    """The moments of everything."""
    if not self.waiting:
      return self.moments
    return self.moments.add(np.concatenate(self.waiting))


class State(NamedTuple):
  """Both sets, and whether the reals were given as statistics."""

  real: Side = Side()
  fake: Side = Side()
  given: bool = False


def init(
  count: int = 0,
  mean: np.ndarray | None = None,
  covariance: np.ndarray | None = None,
) -> State:
  """No example yet, or the statistics of a reference set.

  Args:
    count: reals that were seen already; 0 if they will come in batches.
    mean: of their features [d].
    covariance: unbiased [d d].

  Returns:
    The state.

  Raises:
    ValueError: statistics that do not belong together.
  """
  if not count:
    return State()
  mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
  if count < 2 or mean.ndim != 1 or covariance.shape != 2 * mean.shape:
    raise ValueError(
      "A reference has a count above 1, a mean [d] and a covariance [d d]; got "
      f"{count}, {mean.shape} and {covariance.shape}."
    )
  moments = _fold.Moments(count, mean, covariance * (count - 1))
  return State(Side(moments), given=True)


def statistics(state: State) -> dict[str, np.ndarray]:
  """Of the reals seen: count, mean, covariance, as `init` takes them.

  Raises:
    ValueError: fewer than two.
  """
  moments = state.real.all()
  return {
    "count": moments.count,
    "mean": moments.mean,
    "covariance": moments.covariance(),
  }


def update(state: State, batch: Batch) -> State:
  """Adds examples to one set or to both.

  Args:
    state: what the earlier batches gave.
    batch: `real_features` or `fake_features` [b d], or both; optional `mask`
      [b] for whichever is there. The sets may differ in size.

  Returns:
    The new state. Where the reals were given as statistics, `real_features` are
    an error.

  Raises:
    ValueError: neither key is there, or features of another d, or not finite.
  """
  features = _fold.present(batch, *NEEDS)
  if state.given and "real_features" in features:
    raise ValueError(
      "The statistics of the reals were given; no more can come."
    )
  for key, x in features.items():
    side = key.removesuffix("_features")
    seen = getattr(state, side).add(_fold.finite(key, x))
    state = state._replace(**{side: seen})
  return state


def compute(state: State) -> dict[str, float]:
  """`fd` of the two sets, see `distance`.

  A set that has no more examples than features warns: its covariance is
  singular, and the number falls as examples are added.

  Raises:
    ValueError: a set has fewer than two examples, or the sets differ in d.
  """
  real, fake = state.real.all(), state.fake.all()
  s1, s2 = real.covariance(), fake.covariance()
  if s1.shape != s2.shape:
    raise ValueError(f"Real features [b {len(s1)}], fake [b {len(s2)}].")
  for name, count in (("real", real.count), ("fake", fake.count)):
    if count <= len(s1):
      warnings.warn(
        f"frechet has {count} {name} examples of {len(s1)} features, too few"
        " for their covariance: fd compares at equal counts only.",
        stacklevel=2,
      )
  return {"fd": distance(real.mean, s1, fake.mean, s2)}


def distance(
  m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray
) -> float:
  """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), arXiv:1706.08500 eq. 6.

  Args:
    m1: mean [d].
    s1: covariance [d d], of any rank.
    m2: mean [d].
    s2: covariance [d d].

  Returns:
    The distance; rounding may leave it a little below 0.
  """
  gap = m1 - m2
  # With S = H H^T, tr (S1 S2)^(1/2) is the sum of the singular values of
  # H1^T H2. Eigenvalues of S1 S2 would be their squares: where they are 0,
  # rounding makes them negative or complex, and its root is what is left of it.
  product = _half(s1).T @ _half(s2)
  root = np.linalg.svd(product, compute_uv=False).sum()
  return float(gap @ gap + np.trace(s1) + np.trace(s2) - 2.0 * root)


def _half(s: np.ndarray) -> np.ndarray:
  """H [d r] with H H^T = s [d d], r the numerical rank."""
  values, vectors = np.linalg.eigh(s)
  keep = values > len(s) * np.finfo(float).eps * values[-1]
  return vectors[:, keep] * np.sqrt(values[keep])
