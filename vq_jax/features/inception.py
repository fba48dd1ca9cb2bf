"""InceptionV3 as FID measures with it: TensorFlow's network of 2015-12-05.

Szegedy et al. 2015, arXiv:1512.00567, as released in that archive and as
torch-fidelity reproduces it. It differs from later releases: 1008 classes;
average pools leave the padding out of their count; the last block's pool takes
the maximum; images are resized without half-pixel centres. FID means this
network: others give other numbers.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.features import Features, _frozen
from vq_jax.types import Array, Params

NAME = "inception"
FILE = "pt_inception-2015-12-05-6726825d.pth"
SOURCE = (
  f"{FILE} of pytorch-fid, or weights-inception-2015-12-05-6726825d.pth of"
  " torch-fidelity, which holds the same"
)

SIZE = 299  # Pixels a side.
FEATURES = 2048
CLASSES = 1008

Layer = tuple[int, tuple[int, int]]  # Channels, height and width of a kernel.
ONE, THREE, FIVE = (1, 1), (3, 3), (5, 5)
ROW, COLUMN = (1, 7), (7, 1)


class Norm(nn.Module):
  """Batch norm with stored moments, which are parameters like the others."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w c]."""
    one, zero = nn.initializers.ones, nn.initializers.zeros
    shape = (x.shape[-1],)
    mean, var = self.param("mean", zero, shape), self.param("var", one, shape)
    scale = self.param("scale", one, shape) * jax.lax.rsqrt(var + 1e-3)
    return (x - mean) * scale + self.param("bias", zero, shape)


class Conv(nn.Module):
  """Convolution, batch norm, ReLU: [b h w c] -> [b h' w' width]."""

  width: int
  kernel: tuple[int, int] = ONE
  stride: int = 1
  padding: str = "SAME"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """A kernel of one pixel is a linear map of channels."""
    if self.kernel == ONE:
      x = nn.Dense(self.width, use_bias=False, name="conv")(x)
    else:
      x = nn.Conv(
        self.width,
        self.kernel,
        self.stride,
        self.padding,
        use_bias=False,
        name="conv",
      )(x)
    return nn.relu(Norm(name="bn")(x))


def _chain(x: Array, name: str, *layers: Layer, halve: bool = False) -> Array:
  """Convolutions name_1, name_2, ... in a row; the last may halve the size."""
  for i, (width, kernel) in enumerate(layers, 1):
    last = halve and i == len(layers)
    step = dict(stride=2, padding="VALID") if last else {}
    x = Conv(width, kernel, name=f"{name}_{i}", **step)(x)
  return x


def _fork(x: Array, name: str) -> list[Array]:
  """A row and a column of three pixels, side by side."""
  return [
    Conv(384, (1, 3), name=f"{name}a")(x),
    Conv(384, (3, 1), name=f"{name}b")(x),
  ]


_halve = functools.partial(nn.max_pool, window_shape=THREE, strides=(2, 2))
_max = functools.partial(nn.max_pool, window_shape=THREE, padding="SAME")
_mean = functools.partial(
  nn.avg_pool, window_shape=THREE, padding="SAME", count_include_pad=False
)


class A(nn.Module):
  """35x35 pixels: kernels of 1, of 5, and twice of 3."""

  pool: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w 224 + pool]."""
    parts = [
      Conv(64, name="branch1x1")(x),
      _chain(x, "branch5x5", (48, ONE), (64, FIVE)),
      _chain(x, "branch3x3dbl", (64, ONE), (96, THREE), (96, THREE)),
      Conv(self.pool, name="branch_pool")(_mean(x)),
    ]
    return jnp.concatenate(parts, -1)


class B(nn.Module):
  """From 35x35 pixels to 17x17."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h/2 w/2 c + 480]."""
    dbl = ((64, ONE), (96, THREE), (96, THREE))
    parts = [
      Conv(384, THREE, 2, "VALID", name="branch3x3")(x),
      _chain(x, "branch3x3dbl", *dbl, halve=True),
      _halve(x),
    ]
    return jnp.concatenate(parts, -1)


class C(nn.Module):
  """17x17 pixels: kernels of 7, taken apart into rows and columns."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w 768]."""
    d = self.width
    dbl = ((d, ONE), (d, COLUMN), (d, ROW), (d, COLUMN), (192, ROW))
    parts = [
      Conv(192, name="branch1x1")(x),
      _chain(x, "branch7x7", (d, ONE), (d, ROW), (192, COLUMN)),
      _chain(x, "branch7x7dbl", *dbl),
      Conv(192, name="branch_pool")(_mean(x)),
    ]
    return jnp.concatenate(parts, -1)


class D(nn.Module):
  """From 17x17 pixels to 8x8."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h/2 w/2 c + 512]."""
    seven = ((192, ONE), (192, ROW), (192, COLUMN), (192, THREE))
    parts = [
      _chain(x, "branch3x3", (192, ONE), (320, THREE), halve=True),
      _chain(x, "branch7x7x3", *seven, halve=True),
      _halve(x),
    ]
    return jnp.concatenate(parts, -1)


class E(nn.Module):
  """8x8 pixels; only the second block of the kind pools by the maximum."""

  maximum: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b h w c] -> [b h w 2048]."""
    pooled = _max(x) if self.maximum else _mean(x)
    three = _chain(x, "branch3x3", (384, ONE))
    dbl = _chain(x, "branch3x3dbl", (448, ONE), (384, THREE))
    parts = [
      Conv(320, name="branch1x1")(x),
      *_fork(three, "branch3x3_2"),
      *_fork(dbl, "branch3x3dbl_3"),
      Conv(192, name="branch_pool")(pooled),
    ]
    return jnp.concatenate(parts, -1)


class Inception(nn.Module):
  """Images -> pool features and class logits."""

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Array]:
    """[b h w 3] in 0..255 -> pool [b 2048], logits_unbiased [b 1008].

    The logits are those without the bias of the classes, which is what the
    Inception Score has been computed from since its first release.
    """
    x = (resize(images.astype(jnp.float32), SIZE) - 128.0) / 128.0
    x = Conv(32, THREE, 2, "VALID", name="Conv2d_1a_3x3")(x)
    x = Conv(32, THREE, padding="VALID", name="Conv2d_2a_3x3")(x)
    x = _halve(Conv(64, THREE, name="Conv2d_2b_3x3")(x))
    x = Conv(80, name="Conv2d_3b_1x1")(x)
    x = _halve(Conv(192, THREE, padding="VALID", name="Conv2d_4a_3x3")(x))
    for letter, width in zip("bcd", (32, 64, 64), strict=True):
      x = A(width, name=f"Mixed_5{letter}")(x)
    x = B(name="Mixed_6a")(x)
    for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
      x = C(width, name=f"Mixed_6{letter}")(x)
    x = D(name="Mixed_7a")(x)
    x = E(maximum=False, name="Mixed_7b")(x)
    x = E(maximum=True, name="Mixed_7c")(x)
    pool = x.mean((1, 2))
    logits = nn.Dense(CLASSES, use_bias=False, name="fc")(pool)
    return {"pool": pool, "logits_unbiased": logits}


def resize(x: Array, size: int) -> Array:
  """TensorFlow 1's bilinear resize: pixel i is read at i * (old / new).

  There are no half-pixel centres and no antialiasing, so images shift by up to
  half a pixel and shrinking skips pixels; FID is defined with it all the same.

  Args:
    x: [b h w c] float32.
    size: pixels a side of the result.

  Returns:
    [b size size c].
  """
  for axis in (2, 1):
    old = x.shape[axis]
    # float32, as there: it decides which pixel is the one below.
    place = np.arange(size, dtype=np.float32) * np.float32(old / size)
    below = place.astype(np.int32)
    above = np.minimum(below + 1, old - 1)
    part = (place - below).reshape(-1, *(1,) * (3 - axis))
    low, high = jnp.take(x, below, axis), jnp.take(x, above, axis)
    x = low + (high - low) * part
  return x


@functools.cache
def abstract() -> Params:
  """The parameters' shapes."""
  images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.uint8)
  return jax.eval_shape(Inception().init, jax.random.key(0), images)["params"]


def extractor(weights: str) -> Features:
  """The network for FID, KID, IS, precision and recall.

  Args:
    weights: the directory that `--mode=convert --family=inception` wrote.

  Raises:
    FileNotFoundError: there is none; says which file to get and what to run.
    ValueError: it holds something else.
  """
  try:
    _, found, source = _frozen.read(weights, NAME)
  except FileNotFoundError as error:
    told = _frozen.missing(weights, NAME, SOURCE, FILE)
    raise FileNotFoundError(told) from error
  params = _frozen.fitted(found, abstract(), weights)
  network = Inception()

  def run(params: Params, images: Array) -> dict[str, Array]:
    return network.apply({"params": params}, images)

  images = _frozen.of_images(run, params)
  return Features(NAME, _frozen.digest(params), source, images)
