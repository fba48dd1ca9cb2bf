"""LPIPS against a direct float64 implementation, with narrow networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vq_jax.features import lpips

distance = jax.jit(lpips.distance)


@pytest.fixture
def narrow(monkeypatch):
  monkeypatch.setattr(lpips, "_WIDTHS", (3, 4, 4, 5, 5))


@pytest.fixture
def params(narrow):
  rng = np.random.default_rng(0)
  return {
    name: np.abs(rng.normal(size=shape)).astype(np.float32)
    if name.startswith("lin")
    else (rng.normal(size=shape) / np.sqrt(9 * 4)).astype(np.float32)
    for name, shape in lpips.shapes().items()
  }


def images(seed, shape=(2, 18, 16, 3)):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def conv_by_hand(params, name, x):
  kernel = params[f"{name}/kernel"].astype(np.float64)
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
  return np.maximum(
    np.einsum("hwiyx,yxio->hwo", windows, kernel) + params[f"{name}/bias"], 0
  )


def features_by_hand(params, image):
  x = image.astype(np.float64) - [-0.030, -0.088, -0.188]
  x = x / [0.458, 0.448, 0.450]
  outputs = []
  for i, depth in enumerate((2, 2, 3, 3, 3)):
    if i:
      h, w = x.shape[0] // 2, x.shape[1] // 2
      rows = [
        [x[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].max((0, 1)) for c in range(w)]
        for r in range(h)
      ]
      x = np.array(rows)
    for j in range(depth):
      x = conv_by_hand(params, f"conv{i + 1}_{j + 1}", x)
    outputs.append(x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))
  return outputs


def distance_by_hand(params, x, y):
  pairs = zip(
    features_by_hand(params, x), features_by_hand(params, y), strict=True
  )
  return sum(
    (np.square(fx - fy) * params[f"lin{i}"]).sum(-1).mean()
    for i, (fx, fy) in enumerate(pairs)
  )


def test_distance_is_the_definition(params):
  x, y = images(1), images(2)
  expected = [
    distance_by_hand(params, *pair) for pair in zip(x, y, strict=True)
  ]
  distances = distance(params, x, y)
  assert distances.dtype == jnp.float32
  np.testing.assert_allclose(distances, expected, rtol=1e-4)


def test_distance_is_a_squared_distance_of_embeddings(params):
  x, y = images(1), images(2)
  embed = jax.jit(lpips.embedding)
  gap = np.asarray(embed(params, x), np.float64) - embed(params, y)
  np.testing.assert_allclose(
    np.square(gap).sum(1), distance(params, x, y), rtol=1e-5
  )


def test_distance_is_symmetric_and_zero_on_the_diagonal(params):
  x, y = images(1), images(2)
  forth, back = distance(params, x, y), distance(params, y, x)
  np.testing.assert_allclose(forth, back, rtol=1e-6)
  assert (forth > 0).all()
  assert (distance(params, x, x) < 1e-12).all()  # Fused sums differ.


def test_gradient_is_finite_where_no_feature_fires(params):
  dead = {**params, "conv5_3/bias": np.full(5, -1e3, np.float32)}
  total = jax.jit(jax.grad(lambda x, y: lpips.distance(dead, x, y).sum()))
  slope = total(images(1), images(2))
  assert np.isfinite(slope).all()
  assert np.abs(slope).max() > 0


def test_small_images_are_refused(params):
  with pytest.raises(ValueError, match="16 pixels a side; these have 8 x 32"):
    lpips.distance(params, *images(1, (2, 1, 8, 32, 3)))


def test_layout_has_the_size_of_vgg16():
  sizes = {name: int(np.prod(s)) for name, s in lpips.shapes().items()}
  heads = sum(size for name, size in sizes.items() if name.startswith("lin"))
  assert heads == 64 + 128 + 256 + 512 + 512
  assert sum(sizes.values()) - heads == 14_714_688  # arXiv:1409.1556, no head.


def test_weights_survive_both_kinds_of_file(params, tmp_path):
  np.savez(tmp_path / "a.npz", **params)
  safetensors.numpy.save_file(params, tmp_path / "a.safetensors")
  for suffix in ("npz", "safetensors"):
    loaded = lpips.load(tmp_path / f"a.{suffix}")
    assert loaded.keys() == params.keys()
    for name, tensor in loaded.items():
      np.testing.assert_array_equal(tensor, params[name])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"lin2": None}, r"tensor lin2 \(4,\) is expected, nothing is found"),
    ({"lin9": np.ones(2)}, r"lin9 nothing is expected, \(2,\) is found"),
    ({"lin0": np.ones(2)}, r"lin0 \(3,\) is expected, \(2,\) is found"),
  ],
)
def test_wrong_files_are_refused(params, tmp_path, change, message):
  changed = {**params, **change}
  changed = {k: v for k, v in changed.items() if v is not None}
  np.savez(tmp_path / "a.npz", **changed)
  with pytest.raises(ValueError, match=message):
    lpips.load(tmp_path / "a.npz")


def test_missing_files_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no lpips weights at .*a\.npz"):
    lpips.load(tmp_path / "a.npz")
  (tmp_path / "a.pth").touch()
  with pytest.raises(ValueError, match=r"are read from \.npz, \.safetensors"):
    lpips.load(tmp_path / "a.pth")
