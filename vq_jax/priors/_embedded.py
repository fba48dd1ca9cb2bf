"""What priors over learnt embeddings of codes do with a network's words."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax.priors import _gaussian
from vq_jax.types import Array, Key, Metrics, Model


def expect(log_probs: Array, codes: Array) -> Array:
  """sum_k p_k e_k: log p [b n K] of any sum, codes [K + 1 d] -> [b n d]."""
  probs = jax.nn.softmax(log_probs)
  # The bound weighs squared errors by the SNR, thousands near t = 0: there the
  # short products of accelerators alone would cost a bit per token.
  return jnp.matmul(probs, codes[:-1], precision=jax.lax.Precision.HIGHEST)


def entropy(log_probs: Array) -> Array:
  """Of p [.. K] -> [..], nats."""
  return -jnp.sum(jnp.exp(log_probs) * log_probs, -1)


def divergence(log_p: Array, log_q: Array) -> Array:
  """KL(p || q) [.. K] -> [..], nats."""
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def dropped(
  key: Key, shape: tuple[int, int], t: Array, law: str, most: float
) -> Array:
  """Which of [b n] tokens are dropped at t [b]: a share of at most `most`.

  The same key drops more at a time with a larger share, never others.
  """
  key_u, key_r = jax.random.split(key)
  share = RATIOS[law](t, jax.random.uniform(key_r, t.shape))
  return jax.random.uniform(key_u, shape) < most * share[:, None]


def without(model: Model, mask: Array, hidden: Array) -> Model:
  """A model that sees `mask` [d] at the positions in `hidden` [b n]."""

  def denoise(z: Array, t: Array) -> Array:
    return model.denoise(jnp.where(hidden[..., None], mask, z), t)

  return model._replace(denoise=denoise)


def informed(
  model: Model,
  codes: Array,
  log_snr: Callable[[Array], Array],
  hidden: Array | None,
) -> Model:
  """A model that knows what the noise of a token alone says of it.

  If p(x_i) are log-probabilities of the model, these are p(x_i) q(z_i | x_i),
  normalised: Bayes' rule, exact where tokens are independent and p their law.

  Args:
    model: sees E[e(x_i) | z_i] under a uniform p(x_i) in place of z_i.
    codes: embeddings [K + 1 d], the last one of MASK.
    log_snr: by time.
    hidden: tokens [b n] of which MASK is seen, and nothing known.
  """

  def denoise(z: Array, t: Array) -> Array:
    told = _gaussian.log_density(z, codes[:-1], log_snr(t))
    seen = expect(told, codes)
    if hidden is not None:
      told = jnp.where(hidden[..., None], 0.0, told)
      seen = jnp.where(hidden[..., None], codes[-1], seen)
    return jax.nn.log_softmax(model.denoise(seen, t) + told)

  return model._replace(denoise=denoise)


def vitals(codes: Array, log_probs: Array) -> Metrics:
  """What falls to 0 when embeddings collapse, and what they are worth.

  Args:
    codes: [K d].
    log_probs: log p(x | z_t) [b n K], of times all alike.

  Returns:
    code_norm: the mean of |e_k|.
    code_distance: root of the mean of |e_k - e_l|^2 over pairs k, l.
    entropy: of p(x | z_t), nats per token.
  """
  centred = codes - jnp.mean(codes, 0)
  spread = 2.0 * jnp.sum(jnp.square(centred)) / max(len(codes) - 1, 1)
  return {
    "code_norm": jnp.mean(jnp.linalg.norm(codes, axis=-1)),
    "code_distance": jnp.sqrt(spread),
    "entropy": jnp.mean(entropy(log_probs)),
  }


DIVERGENCES = {
  "teacher": divergence,
  "student": lambda teacher, student: divergence(student, teacher),
}
# (t [b], uniform numbers [b]) -> the share of tokens that is dropped [b].
RATIOS = {
  "fixed": lambda t, r: jnp.ones_like(t),
  "random": lambda t, r: r,
  "linear": lambda t, r: t,
}
DECODERS = {
  "argmax": lambda key, log_probs: jnp.argmax(log_probs, -1),
  "draw": jax.random.categorical,
}
