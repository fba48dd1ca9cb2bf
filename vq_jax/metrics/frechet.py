"""Frechet distance between gaussians fitted to features (arXiv:1706.08500).

With Inception pool features this is FID; with other features the number is on
another scale, so the caller names the extractor in front of `fd`.
"""

from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("real_features", "fake_features")


class State(NamedTuple):
  """Mean and scatter, float64, of both sets."""

  real: _fold.Moments = _fold.Moments()
  fake: _fold.Moments = _fold.Moments()


def init() -> State:
  """No example yet."""
  return State()


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
  features = _fold.present(batch, *NEEDS)
  for key, x in features.items():
    side = key.removesuffix("_features")
    moments = getattr(state, side).add(_fold.finite(key, x))
    state = state._replace(**{side: moments})
  return state


def compute(state: State) -> dict[str, float]:
  """`fd` = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), eq. 6.

  Raises:
    ValueError: a set has fewer than two examples, or the sets differ in d.
  """
  real, fake = state.real.covariance(), state.fake.covariance()
  if real.shape != fake.shape:
    raise ValueError(f"Real features [b {len(real)}], fake [b {len(fake)}].")
  gap = state.real.mean - state.fake.mean
  # The product of two covariances has eigenvalues >= 0. Rounding makes some of
  # them negative or complex, whence the complex root and its real part.
  eigenvalues = np.linalg.eigvals(real @ fake).astype(complex)
  root = np.sqrt(eigenvalues).real.sum()
  return {"fd": float(gap @ gap + np.trace(real + fake) - 2.0 * root)}
