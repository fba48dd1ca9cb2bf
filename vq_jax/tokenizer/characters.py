"""Characters as codes: the codebook is a font, so text is a kind of image.

A prior over rows of characters then needs nothing that one over images does not
have. Nothing is learnt: the weights are the glyphs, whatever the key.
"""

from typing import ClassVar

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vq_jax import font
from vq_jax.tokenizer.vqgan import Codes
from vq_jax.types import Array, Key


class Tokenizer(nn.Module):
  """Images in [-1, 1] of painted text <-> ids of its characters.

  A cell is read as the glyph that is nearest to it in squared distance, so that
  what `font.paint` paints is read without a mistake.

  Attributes:
    length: characters in a row; the grid is (1, length).
  """

  length: int = 32
  image_channels: ClassVar[int] = 3
  given: ClassVar[bool] = True  # Of weights that no training has a part in.
  blank: ClassVar[int] = font.BLANK  # The id between words, and behind them.

  def setup(self) -> None:
    """The glyphs in [-1, 1]: [K SIDE*SIDE]."""
    # Weights that were read from a file are no arrays of JAX yet.
    self.codebook = jnp.asarray(self.param("codebook", _glyphs))

  @property
  def factor(self) -> int:
    """Pixels a side per code."""
    return font.SIDE

  @property
  def prior_vocab_size(self) -> int:
    """K: the ids of `encode` and `decode` are 0..K-1."""
    return len(font.ALPHABET)

  @property
  def grid(self) -> tuple[int, int]:
    """Codes (h', w') of an image."""
    return 1, self.length

  def __call__(self, images: Array) -> tuple[Array, Codes]:
    """Images [b h w c] in [-1, 1] -> what is read of them painted, Codes."""
    cells = self._cells(images)
    ids = self._read(cells)
    grid = tuple(side // self.factor for side in images.shape[1:3])
    return self.decode(ids, grid), Codes(cells, self.codebook[ids], ids)

  def encode(self, images: Array) -> Array:
    """Images [b h w c] in [-1, 1] -> ids [b n], int32, raster order.

    Raises:
      ValueError: `factor` does not divide the sides of the images.
    """
    return self._read(self._cells(images))

  def decode(self, ids: Array, grid: tuple[int, int] | None = None) -> Array:
    """Ids [b n] in 0..K-1 -> images [b h w c] in [-1, 1], float32.

    `grid` is (h', w'), h' rows of text; None is (1, length).

    Raises:
      ValueError: the grid does not have n positions.
    """
    h, w = self.grid if grid is None else grid
    if h * w != ids.shape[1]:
      raise ValueError(f"{ids.shape[1]} ids do not fill a grid of {h} x {w}.")
    sizes = {"h": h, "w": w, "p": self.factor, "c": self.image_channels}
    cells = self.codebook[ids]
    return einops.repeat(cells, "b (h w) (p q) -> b (h p) (w q) c", **sizes)

  def spell(self, ids: np.ndarray) -> list[str]:
    """Ids [b n] on the host -> texts, without the blanks behind them."""
    return [font.text(row) for row in ids]

  def _cells(self, images: Array) -> Array:
    """Images [b h w c] -> grey cells [b n SIDE*SIDE]."""
    p = self.factor
    h, w = images.shape[1:3]
    if h % p or w % p:
      raise ValueError(
        f"Images of {h} x {w} pixels: both sides must be multiples of {p}."
      )
    return einops.reduce(
      images, "b (h p) (w q) c -> b (h w) (p q)", "mean", p=p, q=p
    )

  def _read(self, cells: Array) -> Array:
    """Cells [b n SIDE*SIDE] -> the ids of the nearest glyphs [b n], int32."""
    book = self.codebook
    scores = cells @ book.T - 0.5 * jnp.sum(jnp.square(book), -1)
    return jnp.argmax(scores, -1).astype(jnp.int32)


def _glyphs(key: Key) -> Array:
  del key
  glyphs = jnp.asarray(font.bitmaps(), jnp.float32)
  return einops.rearrange(glyphs, "k p q -> k (p q)") / 127.5 - 1.0
