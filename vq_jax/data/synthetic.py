"""Shapes drawn from their number: tiny pictures for tests, no file needed.

Picture i of a split shows shape i % 3 in colour (i // 3) % 4 at a random place
on a random grey. The label is the shape, the style its colour, the caption says
both: "red square".
"""

import numpy as np

from vq_jax import plugins
from vq_jax.data._pictures import Source

SPLITS = ("train", "validation", "heldout")
LABELS = ("square", "disc", "gradient")
STYLES = ("red", "green", "blue", "white")
NUM_LABELS = len(LABELS)
NUM_STYLES = len(STYLES)
_RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])


def source(
  split: str, *, size: int = 16, count: int = 64, seed: int = 0
) -> Source:
  """`count` pictures of one split; picture i depends on (seed, split, i).

  Args:
    split: "train", "validation" or "heldout".
    size: pixels a side, at least 4.
    count: how many pictures.
    seed: another seed draws other places and greys.

  Returns:
    A Source.

  Raises:
    ValueError: no such split, or a size under 4.
  """
  if split not in SPLITS:
    raise ValueError(plugins.unknown(split, SPLITS, "synthetic has no split"))
  if size < 4:
    raise ValueError(f"synthetic draws no picture of size {size}: 4 or more.")
  index = np.arange(count)
  labels = (index % NUM_LABELS).astype(np.int32)
  styles = (index // NUM_LABELS % NUM_STYLES).astype(np.int32)
  images = np.zeros((count, size, size, 3), np.uint8)
  for i in range(count):
    rng = np.random.default_rng([seed, SPLITS.index(split), i])
    images[i] = _picture(rng, labels[i], _RGB[styles[i]], size)
  names = [LABELS[label] for label in labels]
  pairs = zip(styles, names, strict=True)
  captions = [f"{STYLES[style]} {name}" for style, name in pairs]
  return Source(images, labels, styles, names, captions)


def _picture(
  rng: np.random.Generator, label: int, rgb: np.ndarray, size: int
) -> np.ndarray:
  """One shape of colour `rgb` on grey: uint8 [size size 3]."""
  y, x = np.mgrid[:size, :size]
  centre = rng.uniform(0.35, 0.65, 2) * size
  radius = rng.uniform(0.2, 0.3) * size
  dy, dx = np.abs(y + 0.5 - centre[0]), np.abs(x + 0.5 - centre[1])
  coverage = (
    np.maximum(dy, dx) < radius,
    np.hypot(dy, dx) < radius,
    (x + 0.5) / size,
  )[label][..., None]
  grey = rng.integers(60, 120)
  return np.rint(coverage * rgb + (1 - coverage) * grey).astype(np.uint8)
