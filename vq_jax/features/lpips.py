"""LPIPS: a perceptual distance from VGG16 features.

Zhang et al. 2018, arXiv:1801.03924, version 0.1 with the VGG16 trunk. A file
of weights, .npz or .safetensors, holds for the 13 convolutions
`conv1_1/kernel` [3 3 3 64], `conv1_1/bias` [64], ... `conv5_3/bias` [512], and
for the 5 heads `lin0` [64] ... `lin4` [512], all float32. `--mode=convert
--family=lpips` writes such a file.
"""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from vq_jax.features import Features, _frozen
from vq_jax.types import Array, Params

NAME = "lpips"
TRUNK, HEADS = "vgg16-397923af.pth", "vgg.pth"
SOURCE = (
  f"{TRUNK} of torchvision and the heads {HEADS} (weights/v0.1) of the authors'"
  " PerceptualSimilarity"
)

_WIDTHS = (64, 128, 256, 512, 512)
_DEPTHS = (2, 2, 3, 3, 3)
# Mean and deviation of ImageNet's channels, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of a .npz file."""
  with np.load(path) as file:
    return dict(file)


_READERS = {".npz": _read_npz, ".safetensors": safetensors.numpy.load_file}


def shapes() -> dict[str, tuple[int, ...]]:
  """The name and shape of every tensor in a file of weights."""
  layout, inputs = {}, 3
  for i, (width, depth) in enumerate(zip(_WIDTHS, _DEPTHS, strict=True)):
    for j in range(depth):
      layout[f"conv{i + 1}_{j + 1}/kernel"] = (3, 3, inputs, width)
      layout[f"conv{i + 1}_{j + 1}/bias"] = (width,)
      inputs = width
    layout[f"lin{i}"] = (width,)
  return layout


def extractor(weights: str) -> Features:
  """The network for LPIPS, and for nearest neighbours by it.

  `images` gives `embedding` as "pool". Images have 16 pixels a side or more.

  Args:
    weights: see `load`.

  Raises:
    FileNotFoundError: there is none; says which files to get and what to run.
    ValueError: it holds something else.
  """
  params = load(weights)

  def embed(params: Params, images: Array) -> dict[str, Array]:
    return {"pool": embedding(params, _signed(images))}

  def compare(params: Params, x: Array, y: Array) -> Array:
    return distance(params, _signed(x), _signed(y))

  path = pathlib.Path(weights)
  return Features(
    NAME,
    _frozen.digest(params),
    _frozen.provenance(path if path.is_dir() else path.parent),
    images=_frozen.of_images(embed, params),
    distances=_frozen.of_images(compare, params),
  )


def _signed(images: Array) -> Array:
  """uint8 -> [-1, 1]."""
  return images / 127.5 - 1.0


def load(path: str | pathlib.Path) -> dict[str, Array]:
  """Reads the weights for `distance`.

  Args:
    path: the directory that `--mode=convert --family=lpips` wrote, or a .npz or
      .safetensors file; see the module for its layout.

  Returns:
    A flat dict of float32 arrays with the keys of `shapes`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the suffix is unknown, or a tensor is missing, is of another
      shape, or is not part of the layout.
  """
  named = str(path)
  path = pathlib.Path(path)
  if named and path.is_dir():
    path = path / _frozen.PARAMS
  if not path.is_file():
    src = f"{TRUNK} --option=heads={HEADS}"
    raise FileNotFoundError(_frozen.missing(named, NAME, SOURCE, src))
  if path.suffix not in _READERS:
    raise ValueError(f"{path}: weights are read from {', '.join(_READERS)}.")
  tensors = _READERS[path.suffix](path)
  layout = shapes()
  for name in sorted(layout.keys() | tensors.keys()):
    found = tensors[name].shape if name in tensors else "nothing"
    expected = layout.get(name, "nothing")
    if found != expected:
      raise ValueError(
        f"{path}: for tensor {name} {expected} is expected, {found} is found."
      )
  return {name: jnp.asarray(tensors[name], jnp.float32) for name in layout}


def _conv(params: Mapping[str, Array], name: str, x: Array) -> Array:
  """3x3 convolution and ReLU: [b h w c] -> [b h w width]."""
  kernel, bias = params[f"{name}/kernel"], params[f"{name}/bias"]
  y = jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return jax.nn.relu(y + bias)


def _halve(x: Array) -> Array:
  """2x2 max-pooling, an odd last row or column left out: [b h w c]."""
  b, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2]
  return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def features(params: Mapping[str, Array], images: Array) -> list[Array]:
  """VGG16's relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.

  images: [b h w 3] in [-1, 1] -> five of [b h/2^i w/2^i c_i], float32.
  """
  x = (images.astype(jnp.float32) - jnp.array(_SHIFT)) / jnp.array(_SCALE)
  outputs = []
  for i, depth in enumerate(_DEPTHS):
    x = _halve(x) if i else x
    for j in range(depth):
      x = _conv(params, f"conv{i + 1}_{j + 1}", x)
    outputs.append(x)
  return outputs


def _unit(x: Array) -> Array:
  """x / (|x| + 1e-10) over channels; the gradient at x = 0 is finite."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # sqrt has no slope at 0, and a `where` after it would give 0 * inf = NaN.
  norm = jnp.sqrt(jnp.where(square > 0.0, square, 1.0))
  return x / (jnp.where(square > 0.0, norm, 0.0) + 1e-10)


def embedding(params: Mapping[str, Array], images: Array) -> Array:
  """What LPIPS is the squared Euclidean distance of.

  Args:
    params: see `distance`; their heads `lin` have no negative weight.
    images: [b h w 3] in [-1, 1], at least 16 pixels a side.

  Returns:
    [b d], float32: |embedding(x) - embedding(y)|^2 = distance(x, y). d is about
    120 numbers a pixel.
  """
  parts = []
  for i, x in enumerate(features(params, images)):
    b, h, w = x.shape[:3]
    scaled = _unit(x) * jnp.sqrt(params[f"lin{i}"] / (h * w))
    parts.append(scaled.reshape(b, -1))
  return jnp.concatenate(parts, 1)


def distance(params: Mapping[str, Array], x: Array, y: Array) -> Array:
  """sum_i mean_hw w_i . (f_i(x) - f_i(y))^2 (arXiv:1801.03924, eq. 1).

  f_i are the features, of unit length at every position.

  Args:
    params: from `load`; gradients are meant for x and y only.
    x: images [b h w 3] in [-1, 1], at least 16 pixels a side.
    y: images of the same shape.

  Returns:
    One distance per image [b], float32.

  Raises:
    ValueError: the images are too small for four halvings.
  """
  if min(x.shape[1:3]) < 16:
    h, w = x.shape[1:3]
    raise ValueError(f"LPIPS needs 16 pixels a side; these have {h} x {w}.")
  total = jnp.zeros(x.shape[0], jnp.float32)
  pairs = zip(features(params, x), features(params, y), strict=True)
  for i, (fx, fy) in enumerate(pairs):
    square = jnp.square(_unit(fx) - _unit(fy))
    total = total + jnp.mean(square @ params[f"lin{i}"], axis=(1, 2))
  return total
