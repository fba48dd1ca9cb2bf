"""Characters as small pictures: text is painted with them, and read by them.

The glyphs are those of the bitmap font inside Pillow, which is data of that
package and the same in all of its versions; black on white, as emoji stand.
"""

import functools
from collections.abc import Iterable

import einops
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# All that the names of the embedded emoji are written with, blank first.
ALPHABET = " &'()*,-.0123456789:abcdefghijklmnopqrstuvwxyz"
BLANK = 0  # Its id, which also fills a row up behind the last character.
SIDE = 9  # Pixels of a cell, which is square: glyphs are 6 wide and 9 high.
_LEFT, _TOP = 1, -2  # Where a glyph's box begins; the font has two empty rows.


@functools.cache
def bitmaps() -> np.ndarray:
  """The glyphs in the order of ALPHABET: uint8 [K SIDE SIDE], read only."""
  font = ImageFont.load_default_imagefont()
  cells = []
  for character in ALPHABET:
    cell = Image.new("L", (SIDE, SIDE), "white")
    ImageDraw.Draw(cell).text((_LEFT, _TOP), character, "black", font)
    cells.append(np.asarray(cell))
  glyphs = np.stack(cells)
  glyphs.setflags(write=False)
  return glyphs


def ids(text: str, length: int) -> np.ndarray:
  """Places in ALPHABET, blanks behind them: int32 [length].

  Raises:
    ValueError: the text is longer, or has a character that is not there.
  """
  if len(text) > length:
    raise ValueError(f"{text!r} has more than {length} characters.")
  strange = sorted(set(text) - set(ALPHABET))
  if strange:
    raise ValueError(f"{text!r}: the font has no {strange[0]!r}.")
  return np.array([ALPHABET.index(c) for c in text.ljust(length)], np.int32)


def text(ids: Iterable[int]) -> str:
  """The characters of one row of ids, without the blanks behind them."""
  return "".join(ALPHABET[int(i)] for i in ids).rstrip()


def paint(text: str, length: int) -> np.ndarray:
  """One row of text: uint8 [SIDE length*SIDE 3]; ValueError as `ids`."""
  cells = bitmaps()[ids(text, length)]
  return einops.repeat(cells, "n h w -> h (n w) c", c=3)
