"""LPIPS from the official files against torchvision's VGG16 walked by hand."""

import functools

import numpy as np
import pytest
from by_hand import conv, max_pool

from vq_jax import features
from vq_jax.convert import _torch
from vq_jax.convert import lpips as convert
from vq_jax.features import lpips
from vq_jax.train import imported

WIDTHS = (3, 4, 4, 5, 6)
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
SLICES = (3, 8, 15, 22, 29)  # The last layer of each.


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
  monkeypatch.setattr(lpips, "_WIDTHS", WIDTHS)


@functools.cache
def released():
  """(torchvision's trunk, the authors' heads), random and narrow."""
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.standard_normal(shape, np.float32)

  trunk, inputs = {"classifier.0.weight": draw(2, 2)}, 3
  for place in PLACES:
    width = WIDTHS[sum(place > last for last in SLICES)]
    trunk[f"features.{place}.weight"] = draw(width, inputs, 3, 3) / 5
    trunk[f"features.{place}.bias"] = draw(width) / 2
    inputs = width
  heads = {
    f"lin{i}.model.1.weight": np.abs(draw(1, width, 1, 1))
    for i, width in enumerate(WIDTHS)
  }
  return trunk, heads


def walk(trunk, image):
  """uint8 [h w 3] -> the outputs of the five slices, float64."""
  x = image / 127.5 - 1
  x = (x - (-0.030, -0.088, -0.188)) / (0.458, 0.448, 0.450)
  for place in range(30):
    if place in PLACES:
      x = conv(x, trunk[f"features.{place}.weight"], pad=(1, 1))
      x = x + trunk[f"features.{place}.bias"]
    elif place in (4, 9, 16, 23):
      x = max_pool(x, 2, 2)
    else:
      x = np.maximum(x, 0)
    if place in SLICES:
      yield x


def distance_by_hand(x, y):
  trunk, heads = released()
  total = 0.0
  for i, pair in enumerate(zip(walk(trunk, x), walk(trunk, y), strict=True)):
    fx, fy = (
      f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in pair
    )
    head = heads[f"lin{i}.model.1.weight"].ravel()
    total += (np.square(fx - fy) @ head).mean()
  return total


def whole():
  """The state dict of the authors' module: slices, and the heads twice."""
  trunk, heads = released()
  state = {
    "scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32),
    "scaling_layer.scale": np.ones((1, 3, 1, 1), np.float32),
  }
  for key, value in trunk.items():
    if key.startswith("features"):
      place = int(key.split(".")[1])
      number = 1 + sum(place > last for last in SLICES)
      state[key.replace("features", f"net.slice{number}")] = value
  return state | heads | {f"lins.{k[3:]}": v for k, v in heads.items()}


@pytest.fixture
def files(tmp_path, monkeypatch):
  """Names of the official files, and what torch would find in them."""
  content = {}
  for name, state in zip(("trunk.pth", "heads.pth"), released(), strict=True):
    path = tmp_path / name
    path.write_bytes(name.encode())
    content[str(path)] = state
  monkeypatch.setattr(_torch, "read", content.get)
  return list(content)


def test_official_distances(files, tmp_path):
  target = str(tmp_path / "lpips")
  imported.convert("lpips", files[0], target, [f"heads={files[1]}"])
  network = features.make("lpips", str(tmp_path))
  x, y = np.random.default_rng(1).integers(0, 256, (2, 2, 33, 18, 3), np.uint8)
  wanted = list(map(distance_by_hand, x, y))
  np.testing.assert_allclose(network.distances(x, y), wanted, rtol=1e-4)
  gap = network.images(x)["pool"] - network.images(y)["pool"]
  np.testing.assert_allclose((gap**2).sum(1), wanted, rtol=1e-4)
  heads = network.source["options"]["heads"]
  assert heads["file"] == "heads.pth" and len(heads["sha256"]) == 64
  file = lpips.extractor(f"{target}/params.safetensors")
  assert (file.hash, file.source) == (network.hash, network.source)


def test_the_state_of_a_whole_module_is_the_same_network():
  trunk, heads = released()
  params = convert.network(trunk | heads)
  for name, value in convert.network(whole()).items():
    np.testing.assert_equal(value, params[name])


def test_every_key_is_accounted_for():
  trunk, heads = released()
  with pytest.raises(
    ValueError, match=r"no heads: add --option=heads=vgg\.pth"
  ):
    convert.network(trunk)
  for gone in ("features.14.bias", "lin2.model.1.weight"):
    state = {k: v for k, v in (trunk | heads).items() if k != gone}
    with pytest.raises(ValueError, match=r"lacks the tensor '(conv3_3|lin2)"):
      convert.network(state)
  for extra in ("features.30.weight", "lin5.model.1.weight"):
    with pytest.raises(ValueError, match=r"'features\.30\.weight'|'lin5'"):
      convert.network(trunk | heads | {extra: np.zeros((1, 3, 1, 1))})
  wide = {"lin4.model.1.weight": np.ones((1, 9, 1, 1))}
  with pytest.raises(ValueError, match=r"'lin4' of shape \(9,\)"):
    convert.network(trunk | heads | wide)
