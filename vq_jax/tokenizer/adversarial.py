"""Tokenizer against discriminator: the losses and their balance.

Logits are positive for "real". Esser et al. 2021, arXiv:2012.09841, section
3.1, and arXiv:2111.12701, section 3.4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vq_jax.types import Array, Metrics, Params


def hinge(real: Array, fake: Array) -> Array:
  """(E max(0, 1 - D(x)) + E max(0, 1 + D(y))) / 2 (arXiv:1705.02894).

  What was released with both papers. real, fake: logits [..] -> a scalar.
  """
  relu = jax.nn.relu
  return 0.5 * (jnp.mean(relu(1.0 - real)) + jnp.mean(relu(1.0 + fake)))


def cross_entropy(real: Array, fake: Array) -> Array:
  """-(E log p(x) + E log(1 - p(y))) / 2, p = sigmoid(D) (arXiv:1406.2661).

  Equation 9b of arXiv:2111.12701. real, fake: logits [..] -> a scalar, nats.
  """
  softplus = jax.nn.softplus
  return 0.5 * (jnp.mean(softplus(-real)) + jnp.mean(softplus(fake)))


def linear(fake: Array) -> Array:
  """-E D(y), of the released tokenizers. fake: logits [..] -> a scalar."""
  return -jnp.mean(fake)


def non_saturating(fake: Array) -> Array:
  """-E log p(y): a fake that is found out still learns (arXiv:1406.2661, 3).

  fake: logits [..] -> a scalar, nats.
  """
  return jnp.mean(jax.nn.softplus(-fake))


# What each side minimises: (real, fake) -> scalar, fake -> scalar.
LOSSES: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
  "hinge": (hinge, linear),
  "vanilla": (cross_entropy, linear),
  "non_saturating": (cross_entropy, non_saturating),
}


def r1_penalty(judge: Callable[[Array], Array], images: Array) -> Array:
  """E |d D(x) / d x|^2 / 2 at real images (arXiv:1801.04406, eq. 9).

  D(x) is the mean verdict on the patches of x, so that the penalty does not
  depend on their number.

  Args:
    judge: images [b h w c] -> logits [b h' w'].
    images: as the discriminator sees them, augmented.

  Returns:
    A float32 scalar.
  """
  slopes = jax.grad(lambda x: jnp.sum(jnp.mean(judge(x), axis=(1, 2))))(images)
  return 0.5 * jnp.mean(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)))


def adaptive_weight(
  nll_slope: Array,
  g_slope: Array,
  *,
  lambda_max: float,
  factor: float = 1.0,
  delta: float = 1e-4,
) -> Array:
  """min(|d nll / d W| / (|d g / d W| + delta), lambda_max) * factor.

  It gives both losses gradients of the same length at W, the last layer of the
  decoder (arXiv:2111.12701, eq. 9c; arXiv:2012.09841, eq. 7 where lambda_max
  is 1e4 and the factor 0.8).

  Args:
    nll_slope: gradient of the distortion with respect to W.
    g_slope: gradient of the generator's loss with respect to W.
    lambda_max: bound of the ratio.
    factor: by which the bounded ratio is multiplied.
    delta: what keeps the ratio finite.

  Returns:
    lambda, a float32 scalar.
  """
  norm = jnp.linalg.norm
  ratio = norm(nll_slope) / (norm(g_slope) + delta)
  return jnp.clip(ratio, 0.0, lambda_max) * factor


class Balanced(NamedTuple):
  """What `balanced_gradients` found.

  Attributes:
    grads: of objective + lambda * generator, by parameter.
    metrics: those of the objective, with `loss` the sum of both, `g_loss` and
      `lambda`.
    codes: what `network` says besides its outputs.
    seen: what `generator` says besides its loss.
  """

  grads: Params
  metrics: Metrics
  codes: Any
  seen: Any


def balanced_gradients(
  network: Callable[[Params], tuple[Array, Any]],
  objective: Callable[[Array, Any], tuple[Array, Metrics]],
  generator: Callable[[Array], tuple[Array, Any]],
  params: Params,
  *,
  counts: Array | float = 1.0,
  **weights: float,
) -> Balanced:
  """Gradients of objective + lambda * generator, in one pass of the network.

  Both losses are functions of the outputs, so their slopes there are all that
  has to go back through the decoder and the encoder: as slope + lambda * push,
  once lambda is known. It needs each of them at the decoder's last layer only.

  Args:
    network: parameters -> (outputs [b h w c], codes).
    objective: (outputs, codes) -> (scalar, metrics): distortion, which follows
      the outputs, plus what follows the codes.
    generator: outputs -> (its loss, whatever else).
    params: of the network; `decoder/conv_out/kernel` is W.
    counts: 1 where the discriminator counts, 0 before its start.
    **weights: of `adaptive_weight`.

  Returns:
    See `Balanced`.
  """
  (outputs, codes), pull = jax.vjp(network, params)
  # Ids are integers, whose slopes say so and no more.
  slopes = jax.value_and_grad(objective, (0, 1), has_aux=True, allow_int=True)
  (loss, metrics), (slope, rest) = slopes(outputs, codes)
  (g_loss, seen), push = jax.value_and_grad(generator, has_aux=True)(outputs)

  def last_layer(slope: Array) -> Array:
    # The compiler drops all of this pull but the step to that layer.
    (grads,) = pull((slope, rest))
    return grads["decoder"]["conv_out"]["kernel"]

  weight = adaptive_weight(last_layer(slope), last_layer(push), **weights)
  weight = weight * counts
  (grads,) = pull((slope + weight * push, rest))
  total = loss + weight * g_loss
  metrics = {**metrics, "loss": total, "g_loss": g_loss, "lambda": weight}
  return Balanced(grads, metrics, codes, seen)
