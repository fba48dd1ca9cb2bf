"""A codebook that follows the latents: arXiv:1711.00937, appendix A.1.

Codes are moving averages of the latents that chose them, which is k-means a
batch at a time, and get no gradient.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vq_jax.tokenizer import quantize
from vq_jax.types import Array


def smooth(counts: Array, epsilon: float) -> Array:
  """Laplace smoothing of counts [K], their sum unchanged: none is zero."""
  total = jnp.sum(counts)
  return total * (counts + epsilon) / (total + counts.shape[0] * epsilon)


def update(
  codebook: Array,
  counts: Array,
  latents: Array,
  ids: Array,
  *,
  decay: float = 0.99,
  epsilon: float = 1e-5,
) -> tuple[Array, Array]:
  """One step of the averages, after the latents chose their codes.

    counts_k <- decay counts_k + (1 - decay) (latents that chose k)
    sums_k   <- decay sums_k   + (1 - decay) (sum of these latents)
    e_k      <- sums_k / smooth(counts)_k

  The last line gives back the sums from codes and counts, so that counts are
  all the state there is. Whatever else moves a code (`quantize.revive`, k-means
  before the first step) only has to set its count to 1.

  Sums run over the global batch: in a `jit` whose batch is split over devices
  they are added up over all of them before the decay.

  Args:
    codebook: e [K d].
    counts: [K], float32; ones at the start.
    latents: encoder outputs of this step [.. d].
    ids: the codes they chose [..].
    decay: of counts and sums, a step.
    epsilon: of `smooth`.

  Returns:
    The new codebook and counts.
  """
  z = jax.lax.stop_gradient(latents).reshape(-1, latents.shape[-1])
  new = jnp.zeros_like(codebook).at[ids.reshape(-1)].add(z)
  sums = codebook * smooth(counts, epsilon)[:, None]
  sums = decay * sums + (1.0 - decay) * new
  chosen = quantize.histogram(ids, codebook.shape[0])
  counts = decay * counts + (1.0 - decay) * chosen
  return sums / smooth(counts, epsilon)[:, None], counts


class Ema(nn.Module):
  """The nearest code, as `quantize.Nearest`; training calls `follow`.

  Attributes:
    vocab_size: K.
    code_dim: d.
    commitment: weight of mean (z - sg(zq))^2, its whole loss.
    decay: of the averages, a step.
    epsilon: of their smoothing.
  """

  vocab_size: int
  code_dim: int
  commitment: float = 0.25
  decay: float = 0.99
  epsilon: float = 1e-5

  def setup(self) -> None:
    """The codebook stays float32 whatever the network computes in."""
    shape = (self.vocab_size, self.code_dim)
    start = quantize.codebook_init
    self.codebook = self.param("codebook", start, shape, jnp.float32)

  def __call__(
    self,
    latents: Array,
    *,
    train: bool = False,
    temperature: Array | float = 1.0,
  ) -> quantize.Quantized:
    """Latents [.. d] -> Quantized; the same in training, at any temperature."""
    del train, temperature
    codebook = jax.lax.stop_gradient(self.codebook)
    ids = quantize.nearest(latents, codebook)
    quantized = quantize.lookup(ids, codebook)
    return quantize.Quantized(
      through=quantize.straight_through(latents, quantized),
      quantized=quantized,
      ids=ids,
      loss=quantize.vq_loss(
        latents, quantized, commitment=self.commitment, codebook_weight=0.0
      ),
    )

  def lookup(self, ids: Array) -> Array:
    """Ids [..] -> codes [.. d], float32; NaN for an id >= K."""
    return quantize.lookup(ids, self.codebook)

  def follow(
    self, codebook: Array, counts: Array, latents: Array, ids: Array
  ) -> tuple[Array, Array]:
    """`update` with this module's options; reads no parameter of it."""
    return update(
      codebook,
      counts,
      latents,
      ids,
      decay=self.decay,
      epsilon=self.epsilon,
    )
