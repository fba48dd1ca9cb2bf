"""Emoji: 5,382 real pictures with captions and classes, inside the package.

1,906 glyphs drawn in three styles: Noto (flat, shaded), Twemoji (flat) and
Fluent (rendered, 3-D look; it lacks the flags of countries and some more). A
caption is "<style> <name>", such as "fluent crab"; the class is the category.
The pictures stand on white, at 64x64 pixels. Licences are in NOTICE.

Splits are by glyph, so no concept is shared, by a hash of the code point:

  validation: 10% of the glyphs, in every style they have.
  heldout: one style's picture of 5% of the other glyphs. Training sees the name
    in the other styles only: does text conditioning compose style and name?
  train: the rest.

Different glyphs may look alike: at 32 pixels 15 of the 570 validation pictures
(families, flags) equal a training picture; no held-out one does.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vq_jax import plugins
from vq_jax.data._pictures import Source

ROOT = pathlib.Path(__file__).parent
SPLITS = ("train", "validation", "heldout")
SIZES = (64, 32, 16)  # Pixels.
STYLES = ("noto", "twemoji", "fluent")
LABELS = (
  "activities",
  "animals & nature",
  "flags",
  "food & drink",
  "objects",
  "people & body",
  "smileys & emotion",
  "symbols",
  "travel & places",
)
NUM_STYLES = len(STYLES)
NUM_LABELS = len(LABELS)

CELL = 64  # Pixels a side of one picture in a sheet.
COLUMNS = 44  # Pictures in a row of a sheet.
VALIDATION = 0.10  # Share of the glyphs.
HELDOUT = 0.05  # Share of the other glyphs that lose one style.

Glyph = Mapping[str, Any]


# What a label says, as a function of category and style.
CLASSES = {
  "category": lambda category, style: category,
  "style": lambda category, style: style,
  "both": lambda category, style: NUM_STYLES * category + style,
}


def source(split: str, *, size: int = 64, label: str = "category") -> Source:
  """The pictures of one split, glyph by glyph in Unicode's order.

  Args:
    split: "train", "validation" or "heldout".
    size: pixels a side: 64, 32 or 16, averaged down from 64.
    label: what the class is: "category" (9), "style" (3) or "both" (27).

  Returns:
    A Source.

  Raises:
    ValueError: no such split, size or label, or a damaged installation.
  """
  if split not in SPLITS:
    raise ValueError(plugins.unknown(split, SPLITS, "emoji has no split"))
  if size not in SIZES:
    raise ValueError(f"emoji has no size {size}. Choices: 64, 32, 16.")
  if label not in CLASSES:
    raise ValueError(plugins.unknown(label, CLASSES, "emoji has no label"))
  shown = glyphs()
  rows = [
    (i, style)
    for i, glyph in enumerate(shown)
    for style in glyph["styles"]
    if split_of(glyph, style) == split
  ]
  names = [shown[i]["name"] for i, _ in rows]
  categories = np.array([LABELS.index(shown[i]["label"]) for i, _ in rows])
  styles = np.array([STYLES.index(style) for _, style in rows], np.int32)
  images = np.stack([_cells(style)[i] for i, style in rows])
  return Source(
    images=_shrink(images, size),
    labels=CLASSES[label](categories, styles).astype(np.int32),
    styles=styles,
    names=names,
    captions=[f"{row[1]} {n}" for row, n in zip(rows, names, strict=True)],
  )


def split_of(glyph: Glyph, style: str) -> str:
  """The split of one style's picture of a glyph: a hash of the code point."""
  codepoint = glyph["codepoint"]
  if _uniform(f"validation {codepoint}") < VALIDATION:
    return "validation"
  if _uniform(f"heldout {codepoint}") >= HELDOUT:
    return "train"
  which = int(_uniform(f"style {codepoint}") * len(glyph["styles"]))
  return "heldout" if style == glyph["styles"][which] else "train"


def _uniform(text: str) -> float:
  """A number in [0, 1) that depends on `text` alone, on every machine."""
  digest = hashlib.sha256(text.encode()).digest()
  return int.from_bytes(digest[:6], "big") / 2**48


def _shrink(images: np.ndarray, size: int) -> np.ndarray:
  """Area average, halves rounded up: uint8 [N 64 64 c] -> [N size size c]."""
  k = CELL // size
  if k == 1:
    return images
  blocks = images.reshape(len(images), size, k, size, k, -1)
  total = blocks.sum(axis=(2, 4), dtype=np.uint32)
  return ((total + k * k // 2) // (k * k)).astype(np.uint8)


def _damaged(path: pathlib.Path, reason: object) -> ValueError:
  return ValueError(f"Cannot read {path} ({reason}): reinstall vq_jax.")


@functools.cache
def glyphs() -> list[Glyph]:
  """Rows of glyphs.json: codepoint, name, label, styles."""
  path = ROOT / "glyphs.json"
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise _damaged(path, error) from error


@functools.cache
def _cells(style: str) -> np.ndarray:
  """A style's sheet, decoded once: uint8 [cells 64 64 3]; cell i is glyph i."""
  path = ROOT / "sheets" / f"{style}.webp"
  try:
    with Image.open(path) as image:
      sheet = np.asarray(image.convert("RGB"))
  except (OSError, SyntaxError, ValueError) as error:
    raise _damaged(path, error) from error
  rows = -(-len(glyphs()) // COLUMNS)
  if sheet.shape != (rows * CELL, COLUMNS * CELL, 3):
    raise _damaged(path, f"its shape is {sheet.shape}")
  grid = sheet.reshape(rows, CELL, COLUMNS, CELL, 3).swapaxes(1, 2)
  return grid.reshape(-1, CELL, CELL, 3)
