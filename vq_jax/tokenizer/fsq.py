"""Finite scalar quantization: arXiv:2309.15505.

No codebook and no loss: each of d numbers is squashed and rounded to one of a
few levels, and a code is one combination of them. Nothing can collapse.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vq_jax.tokenizer import quantize
from vq_jax.types import Array


def bound(latents: Array, levels: tuple[int, ...]) -> Array:
  """Squashes [.. d] so that rounding number i gives `levels[i]` integers.

  Those are -(L // 2) .. (L - 1) // 2: an even L has half a level of offset,
  and a shift that keeps zero at about zero (appendix A.1; its tangent stands
  for the inverse of tanh, which is not defined for two levels).
  """
  count = np.array(levels, np.float64)
  half = (count - 1.0) * (1.0 - 1e-3) / 2.0
  offset = np.where(count % 2 == 1, 0.0, 0.5)
  shift, half, offset = (
    jnp.asarray(x, jnp.float32) for x in (np.tan(offset / half), half, offset)
  )
  return jnp.tanh(latents.astype(jnp.float32) + shift) * half - offset


class FSQ(nn.Module):
  """Every number of a latent rounded on its own; codes are in [-1, 1].

  The paper finds five levels or more best, and these about as good as learnt
  codebooks of 2^8, 2^10, 2^12, 2^14, 2^16 codes (section 4.1): (8, 6, 5),
  (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5), (8, 8, 8, 5, 5, 5).

  Attributes:
    vocab_size: K, the product of the levels.
    code_dim: d, how many there are.
    levels: integers each number is rounded to, 2 or more.
  """

  vocab_size: int
  code_dim: int
  levels: tuple[int, ...]

  def setup(self) -> None:
    """The first level varies fastest as ids count up."""
    levels, size = tuple(self.levels), math.prod(self.levels)
    if min(levels) < 2:
      raise ValueError(f"FSQ needs levels of 2 or more, not {levels}.")
    if (size, len(levels)) != (self.vocab_size, self.code_dim):
      raise ValueError(
        f"FSQ with levels {levels} has vocab_size = {size} and code_dim ="
        f" {len(levels)}; config.tokenizer says {self.vocab_size} and"
        f" {self.code_dim}."
      )
    self.half = np.array(levels, np.int32) // 2
    self.place = np.cumprod((1, *levels[:-1]), dtype=np.int32)

  def __call__(
    self,
    latents: Array,
    *,
    train: bool = False,
    temperature: Array | float = 1.0,
  ) -> quantize.Quantized:
    """Latents [.. d] -> Quantized; the same in training, at any temperature."""
    del train, temperature
    bounded = bound(latents, self.levels)
    rounded = jnp.round(bounded)
    digits = rounded.astype(jnp.int32) + self.half
    return quantize.Quantized(
      through=quantize.straight_through(bounded, rounded) / self.half,
      quantized=rounded / self.half,
      ids=jnp.sum(digits * self.place, -1, dtype=jnp.int32),
      loss=jnp.float32(0.0),
    )

  def lookup(self, ids: Array) -> Array:
    """Ids [..] -> codes [.. d], float32; NaN for an id that is none."""
    digits = ids[..., None] // self.place % np.array(self.levels)
    codes = (digits - self.half) / self.half.astype(np.float32)
    legal = (ids >= 0) & (ids < self.vocab_size)
    return jnp.where(legal[..., None], codes, jnp.nan)
