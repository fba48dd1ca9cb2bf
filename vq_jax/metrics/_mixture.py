"""A mixture of gaussians by expectation maximisation, float64 on the host.

Full covariances, the start, the ridge and the stop of the usual recipe: k-means
on k-means++ centres, 1e-6 on the diagonal, until the mean log-likelihood
changes by less than 1e-3.
"""

from typing import NamedTuple

import numpy as np

_RIDGE = 1e-6
_STOP = 1e-3
_ROUNDS = 100


class Mixture(NamedTuple):
  """K gaussians in d dimensions.

  Attributes:
    weights: [K], they sum to 1.
    means: [K d].
    covariances: [K d d].
  """

  weights: np.ndarray
  means: np.ndarray
  covariances: np.ndarray


def fit(x: np.ndarray, components: int, seed: int = 0) -> Mixture:
  """The mixture that x [n d] is most likely under, a local optimum.

  Args:
    x: `components` vectors or more.
    components: K.
    seed: of the start.

  Returns:
    The mixture.
  """
  labels = _cluster(x, components, np.random.RandomState(seed))
  shares = np.eye(components)[labels]
  before = -np.inf
  for _ in range(_ROUNDS):
    mixture = _maximise(x, shares)
    joint = _joint(mixture, x)
    density = np.logaddexp.reduce(joint, axis=1)
    if abs(density.mean() - before) < _STOP:
      break
    before = density.mean()
    shares = np.exp(joint - density[:, None])
  return mixture


def log_density(mixture: Mixture, x: np.ndarray) -> np.ndarray:
  """log p of each row, in nats: [n d] -> [n]."""
  return np.logaddexp.reduce(_joint(mixture, x), axis=1)


def _maximise(x: np.ndarray, shares: np.ndarray) -> Mixture:
  """The best gaussians where row i belongs to k by shares [n K]."""
  d = x.shape[1]
  sizes = shares.sum(axis=0) + 10 * np.finfo(float).eps
  means = shares.T @ x / sizes[:, None]
  covariances = np.empty((len(means), d, d))
  for k, (mean, size) in enumerate(zip(means, sizes, strict=True)):
    gap = x - mean
    covariances[k] = (shares[:, k, None] * gap).T @ gap / size
    covariances[k] += _RIDGE * np.eye(d)
  return Mixture(sizes / sizes.sum(), means, covariances)


def _joint(mixture: Mixture, x: np.ndarray) -> np.ndarray:
  """log w_k N(x; m_k, S_k): [n d] -> [n K]."""
  n, d = x.shape
  joint = np.empty((n, len(mixture.weights)))
  for k, (weight, mean, covariance) in enumerate(zip(*mixture, strict=True)):
    root = np.linalg.cholesky(covariance)
    white = (x - mean) @ np.linalg.inv(root).T
    log_volume = np.log(np.diag(root)).sum() + 0.5 * d * np.log(2 * np.pi)
    distance = np.einsum("nd,nd->n", white, white)
    joint[:, k] = np.log(weight) - log_volume - 0.5 * distance
  return joint


def _cluster(
  x: np.ndarray, components: int, rng: np.random.RandomState
) -> np.ndarray:
  """k-means: [n d] -> labels [n]."""
  centres = x[rng.choice(len(x), 1)]
  while len(centres) < components:
    chance = _squares(x, centres).min(axis=1)
    # Fewer distinct vectors than components: the rest are copies.
    chance = chance / chance.sum() if chance.any() else None
    centres = np.concatenate([centres, x[rng.choice(len(x), 1, p=chance)]])
  labels = np.full(len(x), -1)
  for _ in range(_ROUNDS):
    squares = _squares(x, centres)
    found = squares.argmin(axis=1)
    if np.array_equal(found, labels):
      break
    labels = found
    for k in np.unique(labels):
      centres[k] = x[labels == k].mean(axis=0)
  return labels


def _squares(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Squared distances [n K], one centre at a time."""
  return np.stack([np.square(x - c).sum(axis=1) for c in centres], axis=1)
