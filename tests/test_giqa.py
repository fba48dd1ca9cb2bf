"""GIQA: scores by neighbours and by a mixture of gaussians."""

import math

import numpy as np
import pytest

from vq_jax.metrics import _mixture, giqa_gmm, giqa_knn


def features(n, m, d=3, seed=0):
  rng = np.random.default_rng(seed)
  real = rng.normal(size=(n, d)) * np.arange(1, d + 1) + 2
  fake = rng.normal(size=(m, d)) + 1
  return real.astype(np.float32), fake.astype(np.float32)


def score(metric, real, fake, **options):
  state = metric.init(**options)
  state = metric.update(state, {"real_features": real})
  return metric.compute(metric.update(state, {"fake_features": fake}))


def by_loops(x, y, k):
  """Mean over x of the sum of 1 / L1 distance to the k nearest y."""
  total = 0.0
  for a in x.tolist():
    away = sorted(
      sum(abs(p - q + 1e-6) for p, q in zip(a, b, strict=True))
      for b in y.tolist()
    )
    total += sum(1 / distance for distance in away[:k])
  return total / len(x)


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_the_double_loop(k, monkeypatch):
  monkeypatch.setattr(giqa_knn, "_ROWS", 2)
  real, fake = features(23, 31)
  found = score(giqa_knn, real, fake, k=k)
  quality, diversity = by_loops(fake, real, k), by_loops(real, fake, k)
  assert math.isclose(found["giqa_knn_quality"], quality, rel_tol=1e-9)
  assert math.isclose(found["giqa_knn_diversity"], diversity, rel_tol=1e-9)


def test_a_copy_of_a_real_scores_no_more_than_the_slack_allows():
  real, _ = features(12, 1, d=5)
  found = score(giqa_knn, real, real)
  assert math.isclose(found["giqa_knn_quality"], 1e6 / 5, rel_tol=1e-6)


def test_quality_falls_with_blur_and_diversity_with_collapse():
  """Off the data quality is lost; of one picture, repeated, diversity is."""
  real, _ = features(200, 1, seed=1)
  fresh, _ = features(200, 1, seed=2)
  far, one = fresh + 5, np.repeat(fresh[:1], 200, axis=0)
  one = one + 0.05 * np.random.default_rng(3).normal(size=one.shape)
  for metric, kind in ((giqa_knn, ""), (giqa_gmm, "_nats")):
    name = metric.__name__.rsplit(".", 1)[1]
    good, off, same = (score(metric, real, x) for x in (fresh, far, one))
    assert good[f"{name}_quality{kind}"] > off[f"{name}_quality{kind}"]
    assert good[f"{name}_diversity{kind}"] > same[f"{name}_diversity{kind}"]


def log_normal(x, mean, covariance):
  gap = x - mean
  inverse = np.linalg.inv(covariance)
  square = np.einsum("ni,ij,nj->n", gap, inverse, gap)
  _, volume = np.linalg.slogdet(2 * math.pi * covariance)
  return -0.5 * (square + volume)


def ridged(x):
  return np.cov(x, rowvar=False, ddof=0) + 1e-6 * np.eye(x.shape[1])


def test_one_component_is_the_gaussian_of_maximum_likelihood():
  real, fake = features(40, 30)
  found = score(giqa_gmm, real, fake, components=1, variance=1.0)
  for x, y, name in ((fake, real, "quality"), (real, fake, "diversity")):
    x, y = x.astype(float), y.astype(float)
    expected = log_normal(x, y.mean(0), ridged(y)).mean()
    value = found[f"giqa_gmm_{name}_nats"]
    assert math.isclose(value, expected, rel_tol=1e-9)


def test_clusters_far_apart_become_the_components():
  """Then each has its own moments, and the share of its size for a weight."""
  rng = np.random.default_rng(4)
  sizes, corners = (20, 30, 50), 100 * np.eye(3)
  parts = [
    rng.normal(size=(n, 3)) + corner
    for n, corner in zip(sizes, corners, strict=True)
  ]
  mixture = _mixture.fit(np.concatenate(parts), 3, seed=5)
  order = np.argsort(mixture.weights)
  np.testing.assert_allclose(mixture.weights[order], [0.2, 0.3, 0.5], rtol=1e-9)
  for k, part in zip(order, parts, strict=True):
    np.testing.assert_allclose(mixture.means[k], part.mean(0), rtol=1e-9)
    np.testing.assert_allclose(mixture.covariances[k], ridged(part), rtol=1e-7)
  x = rng.normal(size=(7, 3)) + corners[0]
  expected = math.log(0.2) + log_normal(x, parts[0].mean(0), ridged(parts[0]))
  np.testing.assert_allclose(_mixture.log_density(mixture, x), expected)


def test_the_fit_is_a_fixed_point_better_than_one_gaussian():
  """Overlapping clusters: the responsibilities reproduce the parameters."""
  rng = np.random.default_rng(6)
  x = np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(50, 2)) + 3])
  mixture = _mixture.fit(x, 2)
  joint = np.stack(
    [
      math.log(w) + log_normal(x, m, c)
      for w, m, c in zip(*mixture, strict=True)
    ]
  )
  density = np.logaddexp.reduce(joint)
  np.testing.assert_allclose(density, _mixture.log_density(mixture, x))
  shares = np.exp(joint - density)
  np.testing.assert_allclose(shares.mean(1), mixture.weights, atol=0.02)
  assert density.mean() > log_normal(x, x.mean(0), ridged(x)).mean() + 0.01


def test_principal_components_hold_the_share_that_is_asked_for():
  """A feature that hardly varies is not looked at; all of them are at 1."""
  real, fake = features(60, 50, d=4)
  flat = 1e-4 * np.random.default_rng(7).normal(size=(60, 1))
  wide = np.concatenate([real, flat.astype(np.float32)], 1)
  off = np.concatenate([fake, np.full((50, 1), 9, np.float32)], 1)
  name = "giqa_gmm_quality_nats"
  assert score(giqa_gmm, wide, off, components=1)[name] > -100
  assert score(giqa_gmm, wide, off, components=1, variance=1.0)[name] < -1e5


def test_too_few_examples_for_the_covariances_warn():
  real, fake = features(20, 40, d=5)
  with pytest.warns(UserWarning, match="5 covariances of 5 dim.* to 20 real"):
    score(giqa_gmm, real, fake, variance=1.0)
  with pytest.raises(ValueError, match="5 examples or more"):
    score(giqa_gmm, real[:4], fake)
  with pytest.raises(ValueError, match="k=3 needs 3 examples"):
    score(giqa_knn, real[:2], fake, k=3)


def test_options_are_checked():
  for wrong in ({"components": 0}, {"variance": 0.0}, {"variance": 1.5}):
    with pytest.raises(ValueError, match="giqa_gmm needs"):
      giqa_gmm.init(**wrong)
  with pytest.raises(ValueError, match="k must be 1"):
    giqa_knn.init(k=0)
