"""PSNR, SSIM and L1 of paired images."""

import math

import numpy as np
import pytest

from vq_jax.metrics import l1, psnr, ssim


def score(metric, real, fake):
  (value,) = metric.compute(
    metric.update(metric.init(), {"real": real, "fake": fake})
  ).values()
  return value


def pairs(shape=(3, 14, 17, 2), seed=0):
  rng = np.random.default_rng(seed)
  real = rng.uniform(size=shape)
  noise = rng.normal(size=shape) * rng.uniform(0, 0.4, size=(shape[0], 1, 1, 1))
  return real, np.clip(real + noise, 0, 1)


def test_psnr_of_a_constant_error():
  """-10 log10 e^2 = -20 log10 e, averaged over images and not over pixels."""
  real = np.full((2, 4, 4, 3), 0.5)
  fake = real + np.array([0.1, 0.001])[:, None, None, None]
  assert math.isclose(score(psnr, real, fake), (20 + 60) / 2, rel_tol=1e-9)


def test_psnr_of_equal_images_is_infinite():
  real, _ = pairs()
  assert score(psnr, real, real) == math.inf


def test_l1_of_a_constant_error():
  real = np.full((2, 4, 4, 3), 0.5)
  fake = real + np.array([0.25, -0.125])[:, None, None, None]
  assert math.isclose(score(l1, real, fake), 0.1875)


def windowed_ssim(x, y):
  """The definition, one window at a time: [h w c] twice -> scalar."""
  offsets = np.arange(11) - 5
  weight = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
  weight /= weight.sum()
  values = []
  for c in range(x.shape[2]):
    for i in range(x.shape[0] - 10):
      for j in range(x.shape[1] - 10):
        a, b = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
        mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
        var_a = (weight * (a - mean_a) ** 2).sum()
        var_b = (weight * (b - mean_b) ** 2).sum()
        cross = (weight * (a - mean_a) * (b - mean_b)).sum()
        top = (2 * mean_a * mean_b + 1e-4) * (2 * cross + 9e-4)
        bottom = (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
        values.append(top / bottom)
  return np.mean(values)


def test_ssim_is_the_mean_over_windows():
  real, fake = pairs()
  direct = np.mean(
    [windowed_ssim(x, y) for x, y in zip(real, fake, strict=True)]
  )
  assert abs(score(ssim, real, fake) - direct) < 1e-6


def test_ssim_of_two_constants():
  """Without contrast the luminance term is left: (2ab + C1)/(a^2 + b^2 + C1).

  Zero variance is where float32 differences of squares hurt most.
  """
  a, b = 0.9, 0.3
  ones = np.ones((1, 12, 12, 1))
  expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
  assert abs(score(ssim, a * ones, b * ones) - expected) < 1e-4


def test_ssim_of_equal_images_is_one_and_symmetric():
  real, fake = pairs(seed=1)
  assert abs(score(ssim, real, real) - 1) < 1e-6
  swapped = score(ssim, fake, real)
  assert math.isclose(score(ssim, real, fake), swapped, rel_tol=1e-6)
  assert swapped < 1


def test_ssim_needs_a_whole_window():
  small = np.zeros((1, 10, 32, 3))
  with pytest.raises(ValueError, match="11 x 11"):
    score(ssim, small, small)


@pytest.mark.parametrize("metric", [l1, psnr, ssim])
def test_images_must_be_floats_of_one_shape_in_the_unit_range(metric):
  real, fake = pairs()
  for wrong in (2 * fake - 1, (255 * fake).astype(np.uint8), fake * np.nan):
    with pytest.raises(ValueError, match="fake must hold floats"):
      score(metric, real, wrong)
  with pytest.raises(ValueError, match="one shape"):
    score(metric, real, fake[:, :-1])
