"""Codes drawn from a softmax: arXiv:1611.01144, as in the released f8 model."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.tokenizer import quantize
from vq_jax.types import Array


def cosine(
  step: Array | int,
  *,
  start: float = 0.9,
  peak: float = 0.9,
  end: float = 1e-6,
  warmup_steps: int = 0,
  decay_steps: int = 1_000_001,
) -> Array:
  """How soft the draw is at a training step: a line up, half a cosine down.

  The defaults are those of the released f8 model (arXiv:2012.09841).

  Args:
    step: steps done [..].
    start: value at step 0, where there is a warm-up.
    peak: value at its end.
    end: value from `decay_steps` on.
    warmup_steps: steps from start to peak.
    decay_steps: the step at which the end is reached, counted from 0.

  Returns:
    Temperatures [..], float32.
  """
  step = jnp.asarray(step, jnp.float32)
  rising = start + (peak - start) * step / max(warmup_steps, 1)
  progress = (step - warmup_steps) / (decay_steps - warmup_steps)
  fall = (1.0 + jnp.cos(math.pi * jnp.minimum(progress, 1.0))) / 2.0
  return jnp.where(step < warmup_steps, rising, end + (peak - end) * fall)


def linear(
  step: Array | int,
  *,
  start: float = 1.0,
  end: float = 1 / 16,
  decay_steps: int = 160_000,
) -> Array:
  """max(end, start - step / decay_steps): temperatures [..], float32.

  The defaults are those of the released code of arXiv:2111.12701.
  """
  step = jnp.asarray(step, jnp.float32)
  return jnp.maximum(end, start - step / decay_steps)


def constant(step: Array | int, *, value: float = 1.0) -> Array:
  """The same temperature at every step [..], float32."""
  return jnp.full(jnp.shape(step), value, jnp.float32)


TEMPERATURES = {"constant": constant, "cosine": cosine, "linear": linear}


def make_temperature(section: Mapping[str, Any]) -> Callable[[Array], Array]:
  """config.temperature -> (step -> temperature); empty is a constant 1.

  Raises:
    ValueError: an unknown name or option.
  """
  options = dict(section)
  name = options.pop("name", "constant")
  if name not in TEMPERATURES:
    what = "There is no schedule of temperatures"
    raise ValueError(plugins.unknown(name, TEMPERATURES, what))
  schedule = TEMPERATURES[name]
  plugins.check(schedule, options, "config.temperature", given=("step",))
  return functools.partial(schedule, **options)


def kl_to_uniform(logits: Array) -> Array:
  """KL(softmax(logits) || uniform) in nats, the mean of [.. K]: a scalar.

  It keeps all codes in play (arXiv:2102.12092, section 2.1).
  """
  log_q = jax.nn.log_softmax(logits)
  divergence = jnp.sum(jnp.exp(log_q) * log_q, -1) + math.log(logits.shape[-1])
  return jnp.mean(divergence)


class Gumbel(nn.Module):
  """A learnt codebook [K d] and a distribution over it, drawn by Gumbel-max.

  Its loss is kl_weight * `kl_to_uniform` (arXiv:2102.12092, eq. 1).

  Noise is added if there is an rng named "gumbel", which training needs; the
  likeliest code is taken otherwise. The released tokenizer adds noise whenever
  it encodes: to do as it does, give the rng.

  Attributes:
    vocab_size: K.
    code_dim: d, of latents and codes.
    hard: in training, the decoder sees one code, with the gradient of the
      mixture that softmax((logits + noise) / temperature) weighs; it sees the
      mixture otherwise. Outside of training it always sees one code.
    kl_weight: 5e-4; the released f8 model and the code of arXiv:2111.12701
      have 1e-8.
  """

  vocab_size: int
  code_dim: int
  hard: bool = True
  kl_weight: float = 5e-4

  def setup(self) -> None:
    """Everything here is float32: it is small, and ids hang on the digits."""
    self.proj = nn.Dense(self.vocab_size)
    shape = (self.vocab_size, self.code_dim)
    init = nn.initializers.normal(1.0)
    self.codebook = self.param("codebook", init, shape, jnp.float32)

  def __call__(
    self,
    latents: Array,
    *,
    train: bool = False,
    temperature: Array | float = 1.0,
  ) -> quantize.Quantized:
    """Latents [.. d] -> Quantized (arXiv:1611.01144, eq. 2 and section 2.2)."""
    logits = self.proj(latents.astype(jnp.float32))
    scores = logits
    if train or self.has_rng("gumbel"):
      key = self.make_rng("gumbel")
      scores = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    ids = jnp.argmax(scores, -1).astype(jnp.int32)
    through = quantized = quantize.lookup(ids, self.codebook)
    if train:
      through = self._mix(scores / temperature, quantized)
    loss = self.kl_weight * kl_to_uniform(logits)
    return quantize.Quantized(through, quantized, ids, loss)

  def _mix(self, scores: Array, quantized: Array) -> Array:
    """The mixture [.. d] of codes, or the drawn code with its gradient."""
    weights = jax.nn.softmax(scores)
    if not self.hard:
      return weights @ self.codebook
    # The codebook learns from the drawn code alone.
    soft = weights @ jax.lax.stop_gradient(self.codebook)
    return quantized + (soft - jax.lax.stop_gradient(soft))

  def lookup(self, ids: Array) -> Array:
    """Ids [..] -> codes [.. d], float32; NaN for an id >= K."""
    return quantize.lookup(ids, self.codebook)
