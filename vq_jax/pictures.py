"""Images laid out for people: grids, pairs, film strips."""

import einops
import numpy as np

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
