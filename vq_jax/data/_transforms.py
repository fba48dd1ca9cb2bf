"""Files -> pixels: what is decoded, cropped and scaled, and how.

The one definition for training, tokenizing and evaluation; what mirrors are is
config.flip's and config.tokenize.mirror's to say. Every crop is a box
of the picture that is scaled to size x size in one go: the scaled picture is
never held whole, however long and narrow it is.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from vq_jax import plugins

PIXELS = 2**26  # 8192 x 8192. Larger pictures are read reduced, or refused.
# Beside JPEG; Pillow knows others, of which EPS would be run as a program.
FORMATS = ("BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP")
RESAMPLE = {
  "bilinear": Image.Resampling.BILINEAR,
  "bicubic": Image.Resampling.BICUBIC,
  "lanczos": Image.Resampling.LANCZOS,
}
TRIES = 10  # Of a random shape that fits into the picture.

Box = tuple[float, float, float, float]  # Left, top, right, bottom; in pixels.


@dataclasses.dataclass(frozen=True)
class Transform:
  """A picture -> uint8 [size size 3].

  The defaults do in training what evaluation does. As published: crop "random"
  with offset (3/8, 5/8) and zoom (1, 9/8) is arXiv:2111.14822 as released, and
  "center" in evaluation is arXiv:2111.12701's and its.

  Attributes:
    size: pixels a side.
    crop: in training, "center", "random" or "random_resized".
    offset: of "random": where the largest square lies, from 0 to 1 of what is
      left over beside it.
    zoom: of "random": how much larger than `size` that square is scaled before
      size x size is cut out of it; at least 1.
    area: of "random_resized": share of the picture's area.
    ratio: of "random_resized": width over height of what becomes a square.
    resample: "bilinear", "bicubic" or "lanczos"; all of them smooth what they
      make smaller.
  """

  size: int
  crop: str = "center"
  offset: tuple[float, float] = (0.0, 1.0)
  zoom: tuple[float, float] = (1.0, 1.0)
  area: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  resample: str = "bicubic"

  def __post_init__(self) -> None:
    """ValueError: a setting that has no meaning."""
    where = "config.data.transform"
    if self.size < 1:
      raise ValueError(
        f"config.data.size is {self.size}; it counts pixels, 1 or more."
      )
    for name, legal in (("crop", CROPS), ("resample", RESAMPLE)):
      value = getattr(self, name)
      if value not in legal:
        raise ValueError(
          plugins.unknown(value, legal, f"{where} has no {name}")
        )
    for name, (least, most) in LIMITS.items():
      low, high = getattr(self, name)
      if not least <= low <= high <= most:
        raise ValueError(
          f"{where}.{name} is ({low}, {high}); it goes up, within {least} and"
          f" {most}."
        )

  def __call__(
    self, image: Image.Image, rng: np.random.Generator | None = None
  ) -> np.ndarray:
    """A picture as `decode` gives it -> uint8 [size size 3].

    Without `rng` the middle of it, as in evaluation.
    """
    crop = CROPS[self.crop] if rng else center
    square = image.resize(
      (self.size, self.size),
      RESAMPLE[self.resample],
      box=crop(self, *image.size, rng),
    )
    return np.ascontiguousarray(square)


def make(size: int, section: Mapping[str, Any]) -> Transform:
  """config.data.size, config.data.transform -> a Transform."""
  return plugins.call(Transform, section, "config.data.transform", size)


def randomness(seed: int, position: int) -> np.random.Generator:
  """What is drawn for the example at a position in the order of training."""
  return np.random.default_rng([seed, position, 1])  # [seed, n] are shuffles.


def decode(data: bytes, size: int) -> Image.Image:
  """An encoded picture -> RGB, upright, what is transparent white.

  Of an animation the first picture. A JPEG of more than PIXELS pixels is read
  at 1/2, 1/4 or 1/8, while `size` fits into it.

  Raises:
    ValueError: the picture is too large.
    Exception: whatever Pillow raises if the data are damaged.
  """
  with _open(data) as image:
    if image.width * image.height > PIXELS:
      image.draft("RGB", (size, size))
    if image.width * image.height > PIXELS:
      raise ValueError(
        f"{image.width} x {image.height} pixels, more than {PIXELS}"
      )
    image.load()
    with contextlib.suppress(Exception):  # Damaged notes spoil no picture.
      ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip.
      grey = np.clip(np.asarray(image) >> 8, 0, 255)
      image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
      image = image.convert("RGBA")
      white = Image.new("RGBA", image.size, "white")
      image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def stored_size(data: bytes) -> tuple[int, int]:
  """(width, height) of an encoded picture, as its header says."""
  with _open(data) as image:
    return image.size


def _open(data: bytes) -> Image.Image:
  """Reads the header."""
  file = io.BytesIO(data)
  if data.startswith(b"\xff\xd8\xff"):
    # Image.open would refuse a large one before it can be read reduced.
    return JpegImagePlugin.JpegImageFile(file)
  return Image.open(file, formats=FORMATS)


def center(
  transform: Transform, w: int, h: int, rng: np.random.Generator | None = None
) -> Box:
  """The largest square, in the middle."""
  side = min(w, h)
  left, top = (w - side) / 2, (h - side) / 2
  return left, top, left + side, top + side


def random(
  transform: Transform, w: int, h: int, rng: np.random.Generator
) -> Box:
  """Somewhere in the largest square, which lies somewhere itself."""
  square = min(w, h)
  side = square / rng.uniform(*transform.zoom)
  place = rng.uniform(*transform.offset)
  left = (w - square) * place + rng.uniform(0, square - side)
  top = (h - square) * place + rng.uniform(0, square - side)
  return left, top, left + side, top + side


def random_resized(
  transform: Transform, w: int, h: int, rng: np.random.Generator
) -> Box:
  """A rectangle of random area and shape; the middle if none fits."""
  for _ in range(TRIES):
    area = w * h * rng.uniform(*transform.area)
    ratio = math.exp(rng.uniform(*map(math.log, transform.ratio)))
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    if width <= w and height <= h:
      left, top = rng.uniform(0, w - width), rng.uniform(0, h - height)
      return left, top, left + width, top + height
  return center(transform, w, h)


CROPS = {"center": center, "random": random, "random_resized": random_resized}
LIMITS = {
  "offset": (0.0, 1.0),
  "zoom": (1.0, 16.0),
  "area": (1e-3, 1.0),
  "ratio": (1 / 16, 16.0),
}
