"""A small transformer over the bytes of a caption, trained with the prior."""

from collections.abc import Sequence

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.ops.attention import attend
from vq_jax.types import Array

FROZEN = False
FILES = ()

END = 256  # Behind the last byte, up to the end.
NORMAL = nn.initializers.normal(0.02)
FAN_IN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Encoder(nn.Module):
  """Captions -> features [b m d].

  A byte starts out as itself plus the runs of bytes that end in it, looked up
  by their hash (arXiv:2412.09871): most words are known before any block has
  learnt to spell. The runs of the whole caption are added to every position:
  a net whose attention is still even hears them, and not mostly padding.

  Attributes:
    length: m, bytes of a caption; the rest of a longer one is not read.
    dim: d, features of a byte.
    layers: transformer blocks.
    heads: attention heads, a divisor of `dim`.
    runs: lengths of those runs.
    buckets: hashes of every length.
  """

  length: int = 48
  dim: int = 128
  layers: int = 2
  heads: int = 4
  runs: tuple[int, ...] = (3, 5)
  buckets: int = 4096

  @nn.nowrap
  def words(self, captions: Sequence[str]) -> np.ndarray:
    """Captions -> bytes of their lower-case UTF-8, int32 [b m]."""
    ids = np.full((len(captions), self.length), END, np.int32)
    for row, caption in zip(ids, captions, strict=True):
      read = caption.lower().strip().encode()[: self.length]
      row[: len(read)] = list(read)
    return ids

  @nn.compact
  def __call__(self, words: Array) -> Array:
    """Ids [b m] -> features [b m d], float32; each has unit RMS."""
    x = nn.Embed(END + 1, self.dim, embedding_init=NORMAL, name="bytes")(words)
    read = (words != END)[..., None]
    count = jnp.maximum(jnp.sum(read, 1, keepdims=True), 1)
    for n in self.runs:
      table = nn.Embed(
        self.buckets, self.dim, embedding_init=NORMAL, name=f"runs{n}"
      )
      run = jnp.where(read, table(hashes(words, n) % self.buckets), 0.0)
      x += run + jnp.sum(run, 1, keepdims=True) / jnp.sqrt(count)
    x += self.param("positions", NORMAL, (self.length, self.dim))
    for i in range(self.layers):
      x = Block(self.heads, name=f"block{i}")(x)
    return nn.LayerNorm(name="norm")(x)


def hashes(words: Array, n: int) -> Array:
  """Ids [b m] -> a number for the n of them that end at each, uint32 [b m].

  FNV-1a, whose constants these are; END stands in front of the first.
  """
  before = jnp.pad(words, ((0, 0), (n - 1, 0)), constant_values=END)
  total = jnp.full(words.shape, 2166136261, jnp.uint32)
  for i in range(n):
    ids = before[:, i : i + words.shape[1]].astype(jnp.uint32)
    total = (total ^ ids) * jnp.uint32(16777619)
  return total ^ (total >> 16)  # The low bits, which a table takes, mix little.


class Block(nn.Module):
  """Pre-norm residual block: self-attention, then an MLP."""

  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b m d] -> [b m d]."""
    width = x.shape[-1]
    y = nn.LayerNorm(name="attention_norm")(x)
    qkv = nn.Dense(3 * width, name="qkv", kernel_init=FAN_IN)(y)
    split = "b m (three a d) -> three b m a d"
    q, k, v = einops.rearrange(qkv, split, three=3, a=self.heads)
    y = einops.rearrange(attend(q, k, v), "b m a d -> b m (a d)")
    x += nn.Dense(width, name="out", kernel_init=FAN_IN)(y)
    y = nn.LayerNorm(name="mlp_norm")(x)
    y = nn.Dense(4 * width, name="up", kernel_init=FAN_IN)(y)
    return x + nn.Dense(width, name="down", kernel_init=FAN_IN)(jax.nn.gelu(y))
