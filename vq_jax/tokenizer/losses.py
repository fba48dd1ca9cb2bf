"""What a tokenizer is trained for, besides fooling a discriminator."""

from collections.abc import Callable

import jax.numpy as jnp

from vq_jax.tokenizer import quantize
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


def stage_one(
  images: Array,
  outputs: Array,
  latents: Array,
  quantized: Array,
  *,
  commitment: float = 0.25,
  codebook: float = 1.0,
  vq_weight: float = 1.0,
  quantizer_loss: Array | None = None,
  **weights: float | Callable[[Array, Array], Array] | None,
) -> tuple[Array, Metrics]:
  """Distortion + vq_weight * vq (arXiv:2012.09841, eq. 4).

  vq is what the quantizer asks for: its own loss or, for a learnt codebook
  whose nearest codes follow a gradient, `quantize.vq_loss`.

  Args:
    images: [b h w c] in [-1, 1].
    outputs: [b h w c], their reconstructions.
    latents: [b h' w' d], what the encoder said.
    quantized: [b h' w' d], their codes before `straight_through`.
    commitment: of `quantize.vq_loss`.
    codebook: of `quantize.vq_loss`.
    vq_weight: weight of vq.
    quantizer_loss: `quantize.Quantized.loss`; None takes `quantize.vq_loss`.
    **weights: of `distortion`.

  Returns:
    A float32 scalar and its parts: loss, reconstruction, vq, and perceptual
    where it is used.
  """
  total, metrics = distortion(images, outputs, **weights)
  vq = quantizer_loss
  if vq is None:
    vq = quantize.vq_loss(
      latents, quantized, commitment=commitment, codebook=codebook
    )
  total = total + vq_weight * vq
  return total, {"loss": total, "vq": vq, **metrics}
