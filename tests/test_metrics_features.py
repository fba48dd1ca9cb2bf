"""Frechet distance and PRDC.

Golden numbers: features, PRDC and radii of clovaai's prdc and the FID of
torch-fidelity, stored in golden/metrics_*.npz.
"""

import math
import pathlib

import numpy as np
import pytest

from vq_jax.metrics import frechet, prdc

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = [("metrics_200x64", 3), ("metrics_500x16", 5)]


def score(metric, real, fake, **options):
  batch = {"real_features": real}, {"fake_features": fake}
  state = metric.init(**options)
  for part in batch:
    state = metric.update(state, part)
  return metric.compute(state)


def gaussian(mean, covariance, n, seed=0):
  """n vectors whose sample mean and covariance are exactly those given."""
  x = np.random.default_rng(seed).normal(size=(n, len(mean)))
  x -= x.mean(axis=0)
  white = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
  return x @ white.T @ np.linalg.cholesky(covariance).T + mean


@pytest.mark.parametrize("case, nearest_k", CASES)
def test_golden(case, nearest_k):
  golden = np.load(GOLDEN / f"{case}.npz")
  real, fake = golden["real"], golden["fake"]
  # The published code takes the mean in float32.
  fd = score(frechet, real, fake)["fd"]
  np.testing.assert_allclose(fd, golden["fid"], rtol=1e-5)
  result = score(prdc, real, fake, nearest_k=nearest_k)
  for name in ("precision", "recall", "density", "coverage"):
    np.testing.assert_allclose(result[name], golden[f"prdc_{name}"], rtol=1e-9)


def test_frechet_of_gaussians_with_common_axes():
  """|m1 - m2|^2 + sum (s1 - s2)^2 when the covariances commute."""
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
  s1, s2 = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
  m1, m2 = np.array([100.0, 0.0, 1.0]), np.array([103.0, 4.0, 1.0])
  real = gaussian(m1, rotation * s1**2 @ rotation.T, 50)
  fake = gaussian(m2, rotation * s2**2 @ rotation.T, 70, seed=2)
  expected = 25 + np.sum((s1 - s2) ** 2)
  assert math.isclose(score(frechet, real, fake)["fd"], expected, rel_tol=1e-9)


def test_frechet_of_any_gaussians():
  """The other formula: tr (S1^(1/2) S2 S1^(1/2))^(1/2), symmetric roots."""
  rng = np.random.default_rng(3)
  real = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5))
  fake = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + 1
  one, two = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
  values, vectors = np.linalg.eigh(one)
  half = vectors * np.sqrt(values) @ vectors.T
  root = np.sqrt(np.linalg.eigvalsh(half @ two @ half)).sum()
  gap = real.mean(axis=0) - fake.mean(axis=0)
  expected = gap @ gap + np.trace(one + two) - 2 * root
  assert math.isclose(score(frechet, real, fake)["fd"], expected, rel_tol=1e-9)


def test_frechet_with_fewer_examples_than_features():
  """Singular covariances: a real number, zero for equal sets."""
  x = np.random.default_rng(4).normal(size=(10, 30))
  assert abs(score(frechet, x, x)["fd"]) < 1e-5
  assert math.isclose(score(frechet, x, x + 2)["fd"], 120, rel_tol=1e-5)


def test_frechet_survives_a_large_mean():
  """Sums of squares would lose every digit of the variance here."""
  x = gaussian(np.full(2, 1e6), np.eye(2), 64)
  state = frechet.init()
  for part in np.split(x, 8):
    both = {"real_features": part, "fake_features": 1e6 + 2 * (part - 1e6)}
    state = frechet.update(state, both)
  assert math.isclose(frechet.compute(state)["fd"], 2, rel_tol=1e-6)


def loops(real, fake, k):
  """PRDC by double loops over the definition."""

  def away(a, b):
    return math.dist(a.tolist(), b.tolist())

  def radius(i, x):
    return sorted(away(x[i], y) for j, y in enumerate(x) if j != i)[k - 1]

  real_radii = [radius(i, real) for i in range(len(real))]
  fake_radii = [radius(i, fake) for i in range(len(fake))]
  balls = [
    sum(away(y, x) < r for x, r in zip(real, real_radii, strict=True))
    for y in fake
  ]
  recalled = [
    any(away(x, y) < r for y, r in zip(fake, fake_radii, strict=True))
    for x in real
  ]
  covered = [
    min(away(x, y) for y in fake) < r
    for x, r in zip(real, real_radii, strict=True)
  ]
  return {
    "precision": np.mean([n > 0 for n in balls]),
    "recall": np.mean(recalled),
    "density": np.mean(balls) / k,
    "coverage": np.mean(covered),
  }


@pytest.mark.parametrize("k", [1, 3])
def test_prdc_is_the_double_loop(k, monkeypatch):
  """And does not depend on the blocks in which distances are made."""
  rng = np.random.default_rng(5)
  real = rng.normal(size=(33, 3)).astype(np.float32)
  fake = (1.3 * rng.normal(size=(41, 3)) + 0.8).astype(np.float32)
  expected = loops(real, fake, k)
  assert score(prdc, real, fake, nearest_k=k) == pytest.approx(expected)
  monkeypatch.setattr(prdc, "_ROWS", 7)
  monkeypatch.setattr(prdc, "_COLUMNS", 5)
  assert score(prdc, real, fake, nearest_k=k) == pytest.approx(expected)


def test_balls_are_open_and_leave_out_their_centre():
  """On the integers, k = 1: radius 1; a fake at distance 1 is outside.

  Were a point its own neighbour, radii and every number would be 0.
  """
  real = np.arange(4.0)[:, None]
  fake = np.array([[-1.0], [1.5], [20.0], [30.0]])
  expected = {"precision": 0.25, "recall": 1.0, "density": 0.5, "coverage": 0.5}
  assert score(prdc, real, fake, nearest_k=1) == expected


def test_identical_sets_are_ideal():
  """Each ball of a real holds its centre and k - 1 neighbours: density 1."""
  x = np.random.default_rng(6).normal(size=(60, 8))
  assert set(score(prdc, x, x).values()) == {1.0}
  assert abs(score(frechet, x, x)["fd"]) < 1e-6


def test_repeated_examples_leave_no_ball():
  """Distance 0 is not below radius 0, whatever a float product says."""
  x = np.full((20, 50), 0.3)
  assert set(score(prdc, x, x).values()) == {0.0}


def test_disjoint_sets_share_nothing():
  x = np.random.default_rng(7).normal(size=(30, 4))
  assert set(score(prdc, x, x + 100).values()) == {0.0}


def test_what_cannot_be_computed_is_an_error():
  x = np.ones((3, 4))
  with pytest.raises(ValueError, match="more than 3"):
    score(prdc, x, x)
  with pytest.raises(ValueError, match="1 or more"):
    prdc.init(nearest_k=0)
  with pytest.raises(ValueError, match="two examples"):
    score(frechet, x, x[:1])
  with pytest.raises(ValueError, match="fake"):
    score(frechet, x, np.ones((3, 5)))
  with pytest.raises(ValueError, match="fake"):
    score(prdc, np.ones((9, 4)), np.ones((9, 5)))
  for metric in (frechet, prdc):
    with pytest.raises(ValueError, match="finite"):
      score(metric, x, x * np.nan)
