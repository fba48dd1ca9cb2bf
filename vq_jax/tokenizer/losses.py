"""What a tokenizer is trained for, besides fooling a discriminator."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from vq_jax.types import Array, Metrics


def reconstruction(
  images: Array, outputs: Array, *, l1: float = 1.0, l2: float = 0.0
) -> Array:
  """l1 * mean |x - y| + l2 * mean (x - y)^2, over pixels and channels.

  images, outputs: [b h w c] in [-1, 1] -> a float32 scalar.
  """
  error = images.astype(jnp.float32) - outputs.astype(jnp.float32)
  return l1 * jnp.mean(jnp.abs(error)) + l2 * jnp.mean(jnp.square(error))


def distortion(
  images: Array,
  outputs: Array,
  *,
  l1: float = 1.0,
  l2: float = 0.0,
  perceptual: Callable[[Array, Array], Array] | None = None,
  perceptual_weight: float = 1.0,
) -> tuple[Array, Metrics]:
  """How far outputs are from images: pixels and, if given, features.

  The term an adversarial loss is balanced against (arXiv:2012.09841, eq. 7).

  Args:
    images: [b h w c] in [-1, 1].
    outputs: [b h w c], their reconstructions.
    l1: weight of the absolute error.
    l2: weight of the squared error.
    perceptual: (images, outputs) -> [b], such as LPIPS with its weights bound.
    perceptual_weight: its weight.

  Returns:
    A float32 scalar and its parts.
  """
  pixels = reconstruction(images, outputs, l1=l1, l2=l2)
  if perceptual is None:
    return pixels, {"reconstruction": pixels}
  features = jnp.mean(perceptual(images, outputs))
  total = pixels + perceptual_weight * features
  return total, {"reconstruction": pixels, "perceptual": features}


def pixel_nats(
  images: Array,
  mean: Array,
  log_sigma: Array,
  *,
  levels: int = 256,
  dequantize: bool = True,
) -> Array:
  """-log p(x) of independent normal densities on [0, 1], summed over pixels.

  A pixel of level k has the density's mean over the bin [k, k + 1] / levels:
  E_u -log p((k + u) / levels), u uniform in [0, 1), which a normal density
  gives in closed form. By Jensen's inequality this plus log(levels) is no less
  than -log of the mass of the bin, so that it bounds the code length of k
  (arXiv:1511.01844, section 3.1).

  With dequantize=False it is -log p at the 8-bit value in [0, 1], as in the
  released code of arXiv:2111.12701. That bounds nothing: where a pixel can be
  said exactly, sigma -> 0 makes it as small as one likes.

  Args:
    images: [b h w c] in [-1, 1], 8 bits a channel.
    mean: [b h w c] on the same scale.
    log_sigma: log standard deviation [b h w c], of pixels in [0, 1].
    levels: of a channel, up to 256: 32 keeps the first 5 bits.
    dequantize: see above.

  Returns:
    Nats per image [b], float32.
  """
  pixels, mean = (images + 1.0) / 2.0, (mean + 1.0) / 2.0
  spread = 0.0
  if dequantize:
    level = jnp.floor(jnp.round(pixels * 255.0) * (levels / 256))
    pixels = (level + 0.5) / levels
    spread = 1.0 / (12 * levels**2)  # The variance of u / levels.
  square = jnp.square(pixels - mean) + spread
  nats = 0.5 * (math.log(2.0 * math.pi) + square * jnp.exp(-2.0 * log_sigma))
  return jnp.sum(nats + log_sigma, (1, 2, 3))


def stage_one(
  images: Array,
  outputs: Array,
  vq: Array,
  *,
  vq_weight: float = 1.0,
  **weights: float | Callable[[Array, Array], Array] | None,
) -> tuple[Array, Metrics]:
  """Distortion + vq_weight * vq (arXiv:2012.09841, eq. 4).

  Args:
    images: [b h w c] in [-1, 1].
    outputs: [b h w c], their reconstructions.
    vq: what the quantizer asks for, `quantize.Quantized.loss`.
    vq_weight: its weight.
    **weights: of `distortion`.

  Returns:
    A float32 scalar and its parts: loss, reconstruction, vq, and perceptual
    where it is used.
  """
  total, metrics = distortion(images, outputs, **weights)
  total = total + vq_weight * vq
  return total, {"loss": total, "vq": vq, **metrics}
