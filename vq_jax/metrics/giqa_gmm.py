"""GIQA by a mixture of gaussians (Gu et al. 2020, arXiv:2003.08932).

An image is good if its features are likely under a mixture of gaussians fitted
to those of real images, and diversity exchanges the sets. The Quality and the
Diversity Score of Improved VQ-Diffusion are made of it (arXiv:2205.16007,
section 4.1; its authors on cientgu/VQ-Diffusion, issue 17). Their tables hold
numbers in [0, 1], and neither that paper nor the code of either says by what
map: these are log-likelihoods, which compare with their own kind only.
"""

import warnings
from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _mixture, _rows
from vq_jax.types import Batch

NEEDS = ("real_features", "fake_features")


class State(NamedTuple):
  """How the mixture is fitted, and the features of both sets."""

  components: int
  variance: float
  seed: int
  sets: _rows.Pair = _rows.Pair()


def init(components: int = 5, variance: float = 0.95, seed: int = 0) -> State:
  """No example yet.

  Args:
    components: gaussians of the mixture.
    variance: the share that the principal components keep which the mixture is
      fitted to; 1 keeps all features.
    seed: of the start of the fit.

  Returns:
    The empty state.

  Raises:
    ValueError: no component, or a share outside (0, 1].
  """
  if components < 1 or not 0 < variance <= 1:
    raise ValueError(
      "giqa_gmm needs a component or more and a variance in (0, 1]; got"
      f" {components} and {variance}."
    )
  return State(components, variance, seed)


def update(state: State, batch: Batch) -> State:
  """Adds examples to one set or to both.

  Args:
    state: what the earlier batches gave.
    batch: `real_features` or `fake_features` [b d], or both; optional `mask`
      [b] and `index` [b], numbers of the examples: without them the start of
      the fit depends on the order of the batches. The sets may differ in size.

  Returns:
    The new state.

  Raises:
    ValueError: neither key is there, or features of another d, or not finite.
  """
  return state._replace(sets=state.sets.add(batch, "features"))


def compute(state: State) -> dict[str, float]:
  """Mean log-likelihoods in nats of an image.

  A set of no more examples a component than dimensions warns: its covariances
  are singular but for a ridge of 1e-6, and scores are huge or hugely negative.

  Returns:
    `giqa_gmm_quality_nats`, of fakes under a mixture fitted to reals, and
    `giqa_gmm_diversity_nats`, of reals under one fitted to fakes.

  Raises:
    ValueError: a set has fewer examples than components, or fewer than two, or
      the sets differ in d.
  """
  least = max(state.components, 2)
  pair = state.sets.joined(least, f"giqa_gmm of {state.components} components")
  real, fake = (x.astype(np.float64) for x in pair)
  return {
    "giqa_gmm_quality_nats": _score(state, fake, "real", real),
    "giqa_gmm_diversity_nats": _score(state, real, "fake", fake),
  }


def _score(state: State, x: np.ndarray, name: str, y: np.ndarray) -> float:
  """Mean log-likelihood of x [n d] under what is fitted to y [m d]."""
  mean, axes = y.mean(axis=0), _axes(y, state.variance)
  if len(y) <= state.components * axes.shape[1]:
    warnings.warn(
      f"giqa_gmm fits {state.components} covariances of {axes.shape[1]}"
      f" dimensions to {len(y)} {name} examples: they are singular.",
      stacklevel=3,
    )
  mixture = _mixture.fit((y - mean) @ axes, state.components, state.seed)
  return float(np.mean(_mixture.log_density(mixture, (x - mean) @ axes)))


def _axes(x: np.ndarray, variance: float) -> np.ndarray:
  """The principal components that hold that share of the variance: [d e]."""
  if variance == 1:
    return np.eye(x.shape[1])
  values, vectors = np.linalg.eigh(
    np.cov(x, rowvar=False).reshape(2 * x.shape[1:])
  )
  shares = np.cumsum(np.maximum(values[::-1], 0)) / np.maximum(values, 0).sum()
  return vectors[:, ::-1][:, : np.searchsorted(shares, variance) + 1]
