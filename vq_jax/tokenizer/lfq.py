"""Lookup-free quantization: arXiv:2310.05737, section 3.1.

A code is the signs of d numbers, its id their bits: K = 2^d codes without a
codebook. An entropy penalty makes each latent sure of its code, and all
latents together use all codes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.tokenizer import quantize
from vq_jax.types import Array

# Bits whose joint distribution is written out: 2^9 numbers for each latent.
JOINT_BITS = 9


def sample_entropy(logits: Array) -> Array:
  """Mean entropy of independent bits, in nats: log-odds [n d] -> a scalar."""
  p = jax.nn.sigmoid(logits)
  return jnp.mean(jnp.sum(jax.nn.softplus(logits) - p * logits, -1))


def batch_entropy(logits: Array, joint_bits: int = JOINT_BITS) -> Array:
  """Entropy of the mean distribution over codes, in nats, or a bound on it.

  Bits are independent given a latent, not in the mean over latents, which has
  2^d entries for each of them. So bits are taken in groups; entropies of groups
  add up to no less than that of all (subadditivity), and to exactly it if there
  is one group.

  Args:
    logits: log-odds of the bits, [n d] for n latents; the mean is over all of
      them, on all devices.
    joint_bits: the most bits in a group.

  Returns:
    A float32 scalar, at most d ln 2.
  """
  groups = -(-logits.shape[-1] // joint_bits)
  entropy = jnp.float32(0.0)
  for group in jnp.array_split(jax.nn.sigmoid(logits), groups, -1):
    joint = jnp.ones((group.shape[0], 1))
    for i in range(group.shape[1]):
      p = group[:, i, None]
      joint = jnp.concatenate([joint * (1.0 - p), joint * p], -1)  # [n 2^i]
    mean = jnp.mean(joint, 0)
    # The slope of x log x is infinite at 0, where a product underflows.
    entropy -= jnp.sum(mean * jnp.log(mean + 1e-20))
  return entropy


class LFQ(nn.Module):
  """The signs of a latent: codes are corners of the cube {-1, 1}^d.

  Its loss is entropy * (sample_entropy - batch_entropy) + commitment *
  mean (z - sg(zq))^2 (eq. 5), where latents choose among corners by a softmax
  of -|z - corner|^2 / temperature.

  Attributes:
    vocab_size: K = 2^d.
    code_dim: d.
    entropy: weight of the entropy penalty.
    commitment: weight of the distance to the corner.
  """

  vocab_size: int
  code_dim: int
  entropy: float = 0.1
  commitment: float = 0.25

  def setup(self) -> None:
    """Bit i of an id is number i of the code."""
    if self.vocab_size != 2**self.code_dim:
      raise ValueError(
        f"LFQ with code_dim = {self.code_dim} has vocab_size ="
        f" {2**self.code_dim}; config.tokenizer says {self.vocab_size}."
      )
    self.bit = np.arange(self.code_dim, dtype=np.int32)

  def __call__(
    self,
    latents: Array,
    *,
    train: bool = False,
    temperature: Array | float = 1.0,
  ) -> quantize.Quantized:
    """Latents [.. d] -> Quantized; the temperature is the entropies'."""
    del train
    z = latents.astype(jnp.float32)
    ones = z > 0.0
    quantized = jnp.where(ones, 1.0, -1.0)
    # |z + 1|^2 - |z - 1|^2 = 4 z: the log-odds of a bit, whatever the others.
    logits = 4.0 * z.reshape(-1, self.code_dim) / temperature
    penalty = sample_entropy(logits) - batch_entropy(logits)
    commitment = jnp.mean(jnp.square(z - quantized))
    return quantize.Quantized(
      through=quantize.straight_through(z, quantized),
      quantized=quantized,
      ids=jnp.sum(ones << self.bit, -1, dtype=jnp.int32),
      loss=self.entropy * penalty + self.commitment * commitment,
    )

  def lookup(self, ids: Array) -> Array:
    """Ids [..] -> codes [.. d], float32; NaN for an id that is none."""
    codes = 2.0 * (ids[..., None] >> self.bit & 1) - 1.0
    legal = (ids >= 0) & (ids < self.vocab_size)
    return jnp.where(legal[..., None], codes, jnp.nan).astype(jnp.float32)
