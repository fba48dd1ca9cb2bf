"""Images laid out for people: grids, pairs, film strips."""

from collections.abc import Sequence

import einops
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 2  # Pixels of white between images.
SHEET = 8  # Images in a row of measured.png, and rows.
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


def fitting(images: np.ndarray, columns: int) -> int:
  """The columns of a grid of images [b h w c]: 1 where one fills a row.

  That is, where it is wider than so many squares, as a line of text may be.
  """
  h, w = images.shape[1:3]
  return columns if w <= columns * h else 1


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


def histogram(
  counts: np.ndarray, width: int = 640, height: int = 200
) -> np.ndarray:
  """How often each code occurs, the commonest on the left, on a log scale.

  A codebook in good use is a flat block; white on the right is dead codes. The
  line is where all bars would end if all codes were equally frequent.

  Args:
    counts: [K], not all zero; their order does not matter.
    width: pixels of the bars; several codes share one if there are more.
    height: pixels of the longest bar.

  Returns:
    A picture, uint8 [h w 3], with usage and perplexity above the bars.
  """
  counts = np.sort(np.asarray(counts))[::-1]
  shown = counts[np.arange(width) * len(counts) // width]
  scale = height / np.log1p(counts[0])
  bars = np.log1p(shown) * scale
  rows = np.arange(height, 0, -1)[:, None]  # Counted from below, from 1.
  page = np.full((height, width, 3), 255, np.uint8)
  page[rows <= np.ceil(bars)] = (70, 110, 180)
  even = int(np.ceil(np.log1p(counts.mean()) * scale))
  page[height - even] = (220, 60, 40)
  p = counts[counts > 0] / counts.sum()
  head = 24
  picture = Image.new("RGB", (width, height + head), "white")
  picture.paste(Image.fromarray(page), (0, head))
  text = (
    f"{len(p)} of {len(counts)} codes in use, perplexity"
    f" {np.exp(-np.sum(p * np.log(p))):.1f}"
  )
  draw = ImageDraw.Draw(picture)
  font = ImageFont.load_default(14)
  draw.text((width / 2, head / 2), text, "black", font, anchor="mm")
  return np.asarray(picture)


def veil(images: np.ndarray, masked: np.ndarray) -> np.ndarray:
  """Greys out the cells that are not drawn yet.

  images: uint8 [b h w c]; masked: bool [b h' w'], h' dividing h.
  """
  factor = images.shape[1] // masked.shape[1]
  cells = masked.repeat(factor, 1).repeat(factor, 2)[..., None]
  return np.where(cells, np.uint8(HIDDEN), images)


def distances(codes: np.ndarray, size: int = 512) -> np.ndarray:
  """How far embeddings [K d] are from each other, longest first, white is far.

  Embeddings that have collapsed are a black square (arXiv:2410.14758, figure
  5). White is the distance between orthogonal ones of unit variance, or of the
  mean norm if that is larger.

  Returns:
    A picture, uint8 [size + 24 size 3], with norms and distances above it.
  """
  norm = np.linalg.norm(codes, axis=-1)
  codes = codes[np.argsort(-norm)]
  squares = np.sum(codes**2, -1)
  apart = squares[:, None] + squares - 2.0 * codes @ codes.T
  apart = np.sqrt(np.maximum(apart, 0.0))
  white = np.sqrt(2.0) * max(norm.mean(), np.sqrt(codes.shape[1]))
  index = np.arange(size) * len(codes) // size
  page = np.clip(np.round(255.0 * apart / white), 0, 255).astype(np.uint8)
  head = 24
  picture = Image.new("RGB", (size, size + head), "white")
  picture.paste(Image.fromarray(page[np.ix_(index, index)]), (0, head))
  pairs = apart[np.triu_indices(len(codes), 1)]
  text = (
    f"norm {norm.mean():.3g} +- {norm.std():.2g}, distance"
    f" {pairs.mean():.3g}, least {pairs.min():.2g}"
  )
  draw = ImageDraw.Draw(picture)
  font = ImageFont.load_default(14)
  draw.text((size / 2, head / 2), text, "black", font, anchor="mm")
  return np.asarray(picture)
