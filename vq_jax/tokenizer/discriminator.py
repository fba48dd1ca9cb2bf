"""PatchGAN: one verdict per patch, real if positive.

Isola et al. 2017, arXiv:1611.07004, section 3.2, as in the models released with
arXiv:2012.09841 and arXiv:2111.12701.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.types import Array, Key

MOMENTUM = 0.1  # Of the newest batch in the running statistics.
SPACE = (0, 1, 2)  # Axes b h w: a statistic per channel.


def _near_one(key: Key, shape: tuple[int, ...]) -> Array:
  """N(1, 0.02), as the released models start."""
  return 1.0 + 0.02 * jax.random.normal(key, shape)


class BatchNorm(nn.Module):
  """Channels with mean 0 and variance 1 over the batch, then an affine map.

  In training the statistics are those of the *global* batch: under `jit` an
  array split over devices is one array, and so is its mean. They do not depend
  on the mesh. Nothing but what is passed to one call is mixed: real and fake
  images go through separate calls, as released.

  The running statistics, in the collection "batch_stats", serve outside of
  training. As in the released models the running variance is the unbiased one.
  """

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[b h w c] -> [b h w c]; training updates "batch_stats"."""
    c = x.shape[-1]
    running = self.variable("batch_stats", "mean", jnp.zeros, c)
    spread = self.variable("batch_stats", "var", jnp.ones, c)
    scale = self.param("scale", _near_one, (c,))
    bias = self.param("bias", nn.initializers.zeros, (c,))
    mean, var = running.value, spread.value
    if train:
      mean, var = jnp.mean(x, SPACE), jnp.var(x, SPACE)
      n = x.size // c
      if not self.is_initializing():
        unbiased = var * (n / max(n - 1, 1))
        running.value += MOMENTUM * (mean - running.value)
        spread.value += MOMENTUM * (unbiased - spread.value)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias


class ActNorm(nn.Module):
  """An affine map after which the first batch has mean 0 and variance 1.

  Kingma and Dhariwal 2018, arXiv:1807.03039, section 3.1. What the first batch
  of training says stays in the collection "batch_stats"; the weights that are
  learnt start as the identity. So no image's verdict depends on its batch.
  """

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[b h w c] -> [b h w c]; the first training batch sets "batch_stats"."""
    c = x.shape[-1]
    center = self.variable("batch_stats", "mean", jnp.zeros, c)
    spread = self.variable("batch_stats", "deviation", jnp.ones, c)
    seen = self.variable("batch_stats", "seen", lambda: jnp.bool_(False))
    scale = self.param("scale", nn.initializers.ones, (c,))
    bias = self.param("bias", nn.initializers.zeros, (c,))
    if train and not self.is_initializing():
      first = jax.lax.stop_gradient(x)
      mean, deviation = jnp.mean(first, SPACE), jnp.std(first, SPACE, ddof=1)
      center.value = jnp.where(seen.value, center.value, mean)
      spread.value = jnp.where(seen.value, spread.value, deviation)
      seen.value = jnp.bool_(True)
    return (x - center.value) / (spread.value + 1e-6) * scale + bias


NORMS: dict[str, Callable[..., nn.Module]] = {
  "batch": BatchNorm,
  "actnorm": ActNorm,
}


class Discriminator(nn.Module):
  """Images -> logits of being real, one per patch of a fixed size.

  Attributes:
    layers: convolutions that halve the size: 3 make patches of 70 x 70 pixels.
    channels: width after the first; it doubles up to eight times that.
    norm: "batch", whose statistics are those of the batch, or "actnorm".
  """

  layers: int = 3
  channels: int = 64
  norm: str = "batch"

  @nn.compact
  def __call__(self, images: Array, *, train: bool) -> Array:
    """Images [b h w c] in [-1, 1] -> logits [b h' w'], float32.

    With train=True "batch_stats" must be mutable.

    Raises:
      ValueError: an unknown norm, or images too small for so many layers.
    """
    if self.norm not in NORMS:
      raise ValueError(plugins.unknown(self.norm, NORMS, "There is no norm"))
    # A batch norm would take any constant away again.
    bias = self.norm != "batch"
    x = nn.leaky_relu(_conv(self.channels, 2, True, "conv_0")(images), 0.2)
    for i in range(1, self.layers + 1):
      stride = 2 if i < self.layers else 1
      width = self.channels * min(2**i, 8)
      x = _conv(width, stride, bias, f"conv_{i}")(x)
      x = nn.leaky_relu(NORMS[self.norm](name=f"norm_{i}")(x, train), 0.2)
    if min(x.shape[1:3]) < 2:
      h, w = images.shape[1:3]
      raise ValueError(
        f"Images of {h} x {w} pixels are too small for {self.layers} layers of"
        " the discriminator."
      )
    return _conv(1, 1, True, "conv_out")(x)[..., 0]


def _conv(width: int, stride: int, bias: bool, name: str) -> nn.Conv:
  """A 4x4 convolution with one pixel of padding, inside the calling module."""
  return nn.Conv(
    width,
    (4, 4),
    strides=stride,
    padding=((1, 1), (1, 1)),
    use_bias=bias,
    kernel_init=nn.initializers.normal(0.02),
    name=name,
  )
