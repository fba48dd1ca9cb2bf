"""Frechet distance and PRDC.

Golden numbers: features, PRDC and radii of clovaai's prdc and the FID of
torch-fidelity, stored in golden/metrics_*.npz.
"""

import math
import pathlib

import jax
import numpy as np
import pytest

from vq_jax.metrics import _pairs, frechet, prdc

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
  result = score(prdc, real, fake, nearest_k=nearest_k)
  for name in ("precision", "recall", "density", "coverage"):
    np.testing.assert_allclose(result[name], golden[f"prdc_{name}"], rtol=1e-14)
  # torch-fidelity's: closed balls, which is the same where no distances tie,
  # and counts as float32 fractions.
  result = score(prdc, real, fake, nearest_k=3)
  for name in ("precision", "recall"):
    np.testing.assert_allclose(result[name], golden[f"prc_{name}"], rtol=1e-7)


@pytest.mark.parametrize("case, _", CASES)
def test_golden_frechet(case, _):
  golden = np.load(GOLDEN / f"{case}.npz")
  moments = [
    golden[f"fid_{name}"]
    for name in ("mu_real", "sigma_real", "mu_fake", "sigma_fake")
  ]
  result = frechet.distance(*(m.astype(np.float64) for m in moments))
  np.testing.assert_allclose(result, golden["fid"], rtol=1e-6)
  state = frechet.update(frechet.init(), {"real_features": golden["real"]})
  found = frechet.statistics(state)
  np.testing.assert_allclose(found["covariance"], moments[1], rtol=1e-6)
  # The published code takes the mean in float32, and that is all that differs.
  np.testing.assert_allclose(found["mean"], moments[0], atol=1e-6)
  fd = score(frechet, golden["real"], golden["fake"])["fd"]
  np.testing.assert_allclose(fd, golden["fid"], rtol=1e-5)


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
  """Singular covariances: a real number, zero for equal sets, and a warning."""
  x = np.random.default_rng(4).normal(size=(10, 30))
  with pytest.warns(UserWarning, match="10 real .* 30 features, too few"):
    assert abs(score(frechet, x, x)["fd"]) < 1e-10
    assert math.isclose(score(frechet, x, x + 2)["fd"], 120, rel_tol=1e-10)


def test_frechet_of_sets_in_orthogonal_planes():
  """S1 S2 = 0: the root vanishes, whatever eigenvalues rounding makes."""
  rng = np.random.default_rng(8)
  turn, _ = np.linalg.qr(rng.normal(size=(12, 12)))
  real = rng.normal(size=(40, 5)) @ turn[:5]
  fake = rng.normal(size=(40, 5)) @ turn[5:10]
  traces = sum(np.trace(np.cov(x, rowvar=False)) for x in (real, fake))
  gap = np.square(real.mean(0) - fake.mean(0)).sum()
  assert math.isclose(score(frechet, real, fake)["fd"], gap + traces)


def test_frechet_takes_statistics_instead_of_reals():
  """What `statistics` gives is what `init` takes, and no real may follow."""
  rng = np.random.default_rng(9)
  real, fake = rng.normal(size=(50, 3)), rng.normal(size=(40, 3)) + 1
  seen = frechet.update(frechet.init(), {"real_features": real})
  given = frechet.init(**frechet.statistics(seen))
  found = frechet.compute(frechet.update(given, {"fake_features": fake}))
  assert math.isclose(found["fd"], score(frechet, real, fake)["fd"])
  with pytest.raises(ValueError, match="were given"):
    frechet.update(given, {"real_features": real})
  with pytest.raises(ValueError, match=r"\[d d\]"):
    frechet.init(count=50, mean=np.zeros(3), covariance=np.eye(4))
  other = frechet.update(given, {"fake_features": np.ones((9, 5))})
  with pytest.raises(ValueError, match=r"\[b 3\], fake \[b 5\]"):
    frechet.compute(other)


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
  monkeypatch.setattr(_pairs, "_ROWS", 2)
  monkeypatch.setattr(_pairs, "_CHUNK", 10)
  assert score(prdc, real, fake, nearest_k=k) == pytest.approx(expected)


def test_prdc_on_one_device_and_on_eight(monkeypatch):
  rng = np.random.default_rng(10)
  real, fake = (rng.normal(size=(50, 5)).astype(np.float32) for _ in range(2))
  eight = score(prdc, real, fake)
  monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
  jax.clear_caches()
  assert score(prdc, real, fake) == eight
  jax.clear_caches()


def far_clusters(n, seed):
  """Groups a thousand apart, spread by 0.001: float32 products tell nothing."""
  rng = np.random.default_rng(seed)
  corners = 1000.0 * rng.choice([-1, 1], size=(n, 4))
  return (corners + 1e-3 * rng.normal(size=(n, 4))).astype(np.float32)


def test_distances_are_exact_where_products_are_not():
  """The doubtful ones are recomputed, and rows without a sure neighbour too."""
  real, fake = far_clusters(260, 11), far_clusters(280, 12)
  squares = np.square(real[:, None].astype(float) - real).sum(2)
  np.fill_diagonal(squares, np.inf)
  found = _pairs.radii(_pairs.cloud(real, real.mean(0)), 2)
  np.testing.assert_array_equal(found, np.sort(squares, 1)[:, 1])
  assert score(prdc, real[:90], fake[:80], nearest_k=2) == pytest.approx(
    loops(real[:90], fake[:80], 2)
  )


def test_bounds_hold_and_are_tight_enough_to_decide():
  """Every exact distance lies between; hardly a pair of 40,000 is in doubt."""
  x = np.random.default_rng(13).normal(size=(200, 64)).astype(np.float32) + 3
  ball = _pairs.cloud(x, x.mean(0))
  low, high = _pairs._bounds(ball.moved, ball.norms, np.arange(200), *ball[1:])
  i, j = map(np.ravel, np.indices((200, 200)))
  squares = _pairs.exact(x, i, x, j).reshape(200, 200)
  assert (low <= squares).all() and (squares <= high).all()
  assert (high - low).max() < 1e-4 * squares.max()


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
  assert abs(score(frechet, x, x)["fd"]) < 1e-10


def test_repeated_examples_leave_no_ball():
  """Distance 0 is not below radius 0, whatever a float product says."""
  x = np.full((20, 50), 0.3)
  assert set(score(prdc, x, x).values()) == {0.0}


def test_disjoint_sets_share_nothing():
  x = np.random.default_rng(7).normal(size=(30, 4))
  assert set(score(prdc, x, x + 100).values()) == {0.0}


def test_what_cannot_be_computed_is_an_error():
  x = np.ones((3, 4))
  with pytest.raises(ValueError, match="needs 4 examples"):
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
