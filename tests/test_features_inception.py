"""FID's Inception against the network as torch-fidelity writes it down."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from by_hand import conv, max_pool, mean_pool

from vq_jax import features
from vq_jax.convert import _torch
from vq_jax.convert import inception as convert
from vq_jax.features import inception
from vq_jax.train import imported

ROW, COLUMN = (1, 7), (7, 1)


class Official:
  """Its layers with random weights, drawn as they are met, by official name."""

  def __init__(self):
    self.rng, self.state = np.random.default_rng(0), {}

  def unit(self, x, name, width, kernel=(1, 1), stride=1, same=True):
    """BasicConv2d: convolution, batch norm with eps 1e-3, ReLU."""
    pad = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2) if same else (0, 0)
    y = conv(x, self.drawn(name, width, x.shape[-1], kernel), stride, pad)
    bn = {
      key: self.state[f"{name}.bn.{key}"]
      for key in ("weight", "bias", "running_mean", "running_var")
    }
    unit = (y - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-3)
    return np.maximum(unit * bn["weight"] + bn["bias"], 0.0)

  def drawn(self, name, width, inputs, kernel):
    shape = (width, inputs, *kernel)
    scale = np.sqrt(2.0 / np.prod(shape[1:]))
    weight = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
    self.state[f"{name}.conv.weight"] = weight
    for key, low, high in (
      ("weight", 0.5, 1.5),
      ("bias", -0.2, 0.2),
      ("running_mean", -0.2, 0.2),
      ("running_var", 0.01, 1.5),
    ):
      values = self.rng.uniform(low, high, width).astype(np.float32)
      self.state[f"{name}.bn.{key}"] = values
    self.state[f"{name}.bn.num_batches_tracked"] = np.array(0)
    return weight

  def chain(self, x, name, *layers):
    for i, (width, kernel) in enumerate(layers):
      x = self.unit(x, f"{name}_{i + 1}", width, kernel)
    return x

  def ends(self, x, name, width, highest=False):
    """The first and the last branch of most blocks."""
    pooled = max_pool(x, 3, 1, 1) if highest else mean_pool(x, 3)
    first = self.unit(x, f"{name}.branch1x1", width[0])
    return first, self.unit(pooled, f"{name}.branch_pool", width[1])

  def a(self, x, name, width):
    first, last = self.ends(x, name, (64, width))
    five = self.chain(x, f"{name}.branch5x5", (48, (1, 1)), (64, (5, 5)))
    dbl = (64, (1, 1)), (96, (3, 3)), (96, (3, 3))
    dbl = self.chain(x, f"{name}.branch3x3dbl", *dbl)
    return np.concatenate([first, five, dbl, last], -1)

  def b(self, x, name):
    three = self.unit(x, f"{name}.branch3x3", 384, (3, 3), 2, same=False)
    dbl = self.chain(x, f"{name}.branch3x3dbl", (64, (1, 1)), (96, (3, 3)))
    dbl = self.unit(dbl, f"{name}.branch3x3dbl_3", 96, (3, 3), 2, same=False)
    return np.concatenate([three, dbl, max_pool(x, 3, 2)], -1)

  def c(self, x, name, d):
    first, last = self.ends(x, name, (192, 192))
    seven = (d, (1, 1)), (d, ROW), (192, COLUMN)
    seven = self.chain(x, f"{name}.branch7x7", *seven)
    dbl = (d, (1, 1)), (d, COLUMN), (d, ROW), (d, COLUMN), (192, ROW)
    dbl = self.chain(x, f"{name}.branch7x7dbl", *dbl)
    return np.concatenate([first, seven, dbl, last], -1)

  def d(self, x, name):
    three = self.unit(x, f"{name}.branch3x3_1", 192)
    three = self.unit(three, f"{name}.branch3x3_2", 320, (3, 3), 2, same=False)
    seven = (192, (1, 1)), (192, ROW), (192, COLUMN)
    seven = self.chain(x, f"{name}.branch7x7x3", *seven)
    seven = self.unit(
      seven, f"{name}.branch7x7x3_4", 192, (3, 3), 2, same=False
    )
    return np.concatenate([three, seven, max_pool(x, 3, 2)], -1)

  def e(self, x, name, highest):
    first, last = self.ends(x, name, (320, 192), highest)
    parts = []
    for branch, layers in (
      ("branch3x3", ((384, (1, 1)),)),
      ("branch3x3dbl", ((448, (1, 1)), (384, (3, 3)))),
    ):
      y = self.chain(x, f"{name}.{branch}", *layers)
      end = f"{name}.{branch}_{len(layers) + 1}"
      parts += [
        self.unit(y, f"{end}a", 384, (1, 3)),
        self.unit(y, f"{end}b", 384, (3, 1)),
      ]
    return np.concatenate([first, *parts, last], -1)

  def forward(self, image):
    """uint8 [h w 3] -> the 2048 features and the logits without bias."""
    x = (resized(image.astype(np.float64), 299) - 128) / 128
    x = self.unit(x, "Conv2d_1a_3x3", 32, (3, 3), 2, same=False)
    x = self.unit(x, "Conv2d_2a_3x3", 32, (3, 3), same=False)
    x = self.unit(x, "Conv2d_2b_3x3", 64, (3, 3))
    x = self.unit(max_pool(x, 3, 2), "Conv2d_3b_1x1", 80)
    x = self.unit(x, "Conv2d_4a_3x3", 192, (3, 3), same=False)
    x = self.a(max_pool(x, 3, 2), "Mixed_5b", 32)
    x = self.a(self.a(x, "Mixed_5c", 64), "Mixed_5d", 64)
    x = self.c(self.b(x, "Mixed_6a"), "Mixed_6b", 128)
    x = self.c(self.c(x, "Mixed_6c", 160), "Mixed_6d", 160)
    x = self.d(self.c(x, "Mixed_6e", 192), "Mixed_7a")
    x = self.e(x, "Mixed_7b", highest=False)
    x = self.e(x, "Mixed_7c", highest=True)
    assert x.shape == (8, 8, 2048)
    fc = self.rng.standard_normal((1008, 2048), np.float32) / 45
    self.state |= {"fc.weight": fc, "fc.bias": np.ones(1008, np.float32)}
    return x.mean((0, 1)), x.mean((0, 1)) @ fc.T


def resized(x, size):
  """Pixel by pixel: the place of pixel i is i * (old / new), in float32."""
  for _ in range(2):
    old, lines = len(x), []
    for i in range(size):
      place = np.float32(i) * np.float32(old / size)
      low = int(place)
      part = float(place) - low
      lines.append((1 - part) * x[low] + part * x[min(low + 1, old - 1)])
    x = np.stack(lines).swapaxes(0, 1)
  return x


@functools.cache
def official():
  """(state, image uint8, pool, logits)."""
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (40, 330, 3)).astype(np.uint8)
  network = Official()
  return network.state, image, *network.forward(image)


@pytest.fixture
def converted(tmp_path, monkeypatch):
  """A directory as --mode=convert writes it."""
  monkeypatch.setattr(_torch, "read", lambda path: official()[0])
  path = tmp_path / inception.FILE
  path.write_bytes(b"what torch would read")
  target = str(tmp_path / "inception")
  imported.convert("inception", str(path), target)
  return target


def test_official_features(converted):
  _, image, pooled, logits = official()
  network = features.make("inception", str(pathlib.Path(converted).parent))
  found = network.images(image[None])
  assert found.keys() == {"pool", "logits_unbiased"}
  for name, wanted in (("pool", pooled), ("logits_unbiased", logits)):
    assert found[name].dtype == np.float32
    gap = np.abs(found[name][0] - wanted).max()
    assert gap < 1e-4 * np.abs(wanted).max(), name
  assert network.texts is None and len(network.hash) == 64
  assert network.source["file"] == inception.FILE
  assert network.source["family"] == "inception"


@pytest.mark.parametrize("old", [(4, 6), (11, 23), (12, 12), (1, 40)])
def test_resizing_is_tensorflows(old):
  image = np.random.default_rng(2).uniform(0, 255, (*old, 3))
  ours = inception.resize(image[None].astype(np.float32), 12)
  np.testing.assert_allclose(ours[0], resized(image, 12), atol=1e-3)


def test_a_doubled_image_keeps_its_pixels_at_even_places():
  """With half-pixel centres, or aligned corners, none would stay."""
  image = np.random.default_rng(3).uniform(0, 255, (1, 6, 6, 3))
  ours = inception.resize(image.astype(np.float32), 12)
  np.testing.assert_array_equal(ours[:, ::2, ::2], image.astype(np.float32))
  np.testing.assert_array_equal(ours[:, 11, ::2], ours[:, 10, ::2])


def test_published_parameter_count():
  """Keras' InceptionV3 without its top: 21,802,784, whose norms lack scales."""
  layers = jax.tree.leaves_with_path(inception.abstract())
  sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in layers}
  body = {key: size for key, size in sizes.items() if "fc" not in key}
  scales = sum(size for key, size in body.items() if "scale" in key)
  assert sum(body.values()) - scales == 21_802_784
  assert sum(sizes.values()) - sum(body.values()) == 2048 * 1008


def test_the_converter_accounts_for_every_key():
  whole = official()[0]
  for gone in list(whole)[::37]:
    state = {key: value for key, value in whole.items() if key != gone}
    if gone.endswith("num_batches_tracked"):
      convert.network(state)
    else:
      with pytest.raises(ValueError, match=r"Inception checkpoint .*lacks"):
        convert.network(state)
  for extra in ("AuxLogits.conv0.conv.weight", "Mixed_7c.branch.gate"):
    with pytest.raises(ValueError, match=r"AuxLogits/conv0|'Mixed_7c\.branch"):
      convert.network(whole | {extra: np.zeros((1, 1, 3, 3))})
  classes = {"fc.weight": np.zeros((1000, 2048), np.float32)}
  with pytest.raises(ValueError, match=r"'fc/kernel' of shape \(2048, 1000\)"):
    convert.network(whole | classes)
