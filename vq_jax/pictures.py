"""Images laid out for people: grids, pairs, film strips."""

from collections.abc import Sequence

import einops
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 2  # Pixels of white between images.
HIDDEN = 178  # Grey level of what is still masked.


def grid(images: np.ndarray, columns: int, scale: int = 2) -> np.ndarray:
  """uint8 [b h w c] -> one picture, row by row, each pixel `scale` wide.

  The last row is filled up with white.
  """
  b = len(images)
  rows = -(-b // columns)
  blank = np.full((rows * columns - b, *images.shape[1:]), 255, np.uint8)
  images = np.concatenate([images, blank])
  images = images.repeat(scale, 1).repeat(scale, 2)
  edge = ((0, 0), (0, GAP), (0, GAP), (0, 0))
  images = np.pad(images, edge, constant_values=255)
  page = einops.rearrange(
    images, "(r k) h w c -> (r h) (k w) c", r=rows, k=columns
  )
  return np.pad(page, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255)


def table(
  images: np.ndarray,
  rows: Sequence[str],
  columns: Sequence[str],
  scale: int = 2,
  margin: int = 220,
) -> np.ndarray:
  """Images [b h w c], row by row, with a name beside each row and column."""
  page = grid(images, len(columns), scale)
  head = 24
  size = (page.shape[1] + margin, page.shape[0] + head)
  picture = Image.new("RGB", size, "white")
  picture.paste(Image.fromarray(page), (margin, head))
  draw = ImageDraw.Draw(picture)
  font = ImageFont.load_default(14)
  height, width = (side * scale + GAP for side in images.shape[1:3])
  for i, name in enumerate(rows):
    where = (margin - 8, head + (i + 0.5) * height)
    draw.text(where, name, "black", font, anchor="rm")
  for i, name in enumerate(columns):
    where = (margin + (i + 0.5) * width, head / 2)
    draw.text(where, name, "black", font, anchor="mm")
  return np.asarray(picture)


def labelled(
  images: np.ndarray, labels: Sequence[str], columns: int, scale: int = 2
) -> np.ndarray:
  """A grid of images [b h w c] with a line of text under each of them."""
  height, width = (side * scale for side in images.shape[1:3])
  font = ImageFont.load_default(12)
  cells = []
  for image, label in zip(images, labels, strict=True):
    cell = Image.new("RGB", (width, height + 16), "white")
    large = image.repeat(scale, 0).repeat(scale, 1)
    cell.paste(Image.fromarray(large), (0, 0))
    where = (width / 2, height + 8)
    ImageDraw.Draw(cell).text(where, label, "black", font, anchor="mm")
    cells.append(np.asarray(cell))
  return grid(np.stack(cells), columns, scale=1)


def pairs(
  real: np.ndarray, fake: np.ndarray, columns: int, scale: int = 2
) -> np.ndarray:
  """Each original [b h w c] above its reconstruction [b h w c]."""
  pad = -len(real) % columns
  shape = (pad, *real.shape[1:])
  real, fake = (
    np.concatenate([x, np.full(shape, 255, np.uint8)]) for x in (real, fake)
  )
  both = np.stack([real, fake]).reshape(2, -1, columns, *real.shape[1:])
  both = einops.rearrange(both, "two r k h w c -> (r two k) h w c")
  return grid(both, columns, scale)


def veil(images: np.ndarray, masked: np.ndarray) -> np.ndarray:
  """Greys out the cells that are not drawn yet.

  images: uint8 [b h w c]; masked: bool [b h' w'], h' dividing h.
  """
  factor = images.shape[1] // masked.shape[1]
  cells = masked.repeat(factor, 1).repeat(factor, 2)[..., None]
  return np.where(cells, np.uint8(HIDDEN), images)
