"""Model -> Model: everything that changes what a network says. They compose.

Order used by `pipeline.py`, as in arXiv:2205.16007: guidance, then truncation,
then temperature.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.types import NEVER, Array, Cached, Model


def change(
  model: Model, say: Callable[[Array, Array], Array], copies: int = 1
) -> Model:
  """Puts `say` behind all that a model says, with a cache or without.

  Args:
    model: over a batch of copies * b.
    say: (log p [copies * b .. K], t [b]) -> log p [b .. K].
    copies: how often the model sees every image of the batch.

  Returns:
    A model over a batch of b.
  """

  def many(x: Array) -> Array:
    return jnp.concatenate([x] * copies)

  def denoise(z: Array, t: Array) -> Array:
    return say(model.denoise(many(z), many(t)), t)

  def start(b: int):
    return model.cached.start(copies * b)

  def step(cache, token: Array, i: Array, t: Array):
    log_probs, cache = model.cached.step(cache, many(token), i, many(t))
    return say(log_probs, t), cache

  cached = model.cached and Cached(start, step)
  return model._replace(denoise=denoise, cached=cached)


def temper(model: Model, temperature: float) -> Model:
  """p^(1 / temperature), renormalised; 1 changes nothing.

  Raises:
    ValueError: temperature <= 0.
  """
  if temperature <= 0:
    raise ValueError(f"temperature must be positive, not {temperature}.")
  if temperature == 1:
    return model

  return change(model, lambda log_p, t: jax.nn.log_softmax(log_p / temperature))


def truncate(
  model: Model, *, top_p: float = 1.0, top_k: int | None = None
) -> Model:
  """Draws only among the most probable tokens; ties with the last one stay.

  The others lose their mass and the rest is not scaled up, so that the largest
  probability of a position, its purity, is what it was (arXiv:2205.16007, as
  released). Posteriors and draws do not depend on the sum.

  Args:
    model: any model.
    top_p: nucleus (arXiv:1904.09751): the smallest set with at least this mass.
    top_k: at most this many tokens.

  Raises:
    ValueError: top_p outside (0, 1] or top_k < 1.
  """
  if not 0 < top_p <= 1:
    raise ValueError(f"top_p must be in (0, 1], not {top_p}.")
  if top_k is not None and top_k < 1:
    raise ValueError(f"top_k must be at least 1, not {top_k}.")
  # 1.0 must be exact: a float32 cumulative sum would drop the tail.
  if top_p == 1 and top_k is None:
    return model
  return change(model, lambda log_p, t: _keep_likely(log_p, top_p, top_k))


def _keep_likely(log_probs: Array, top_p: float, top_k: int | None) -> Array:
  probs = jnp.exp(log_probs)
  ranked = jnp.sort(probs, -1, descending=True)
  kept = jnp.ones_like(ranked, bool)
  if top_p < 1:
    kept &= jnp.cumsum(ranked, -1) - ranked < top_p  # Mass before the token.
  if top_k is not None:
    kept &= jnp.arange(ranked.shape[-1]) < top_k
  smallest = jnp.min(jnp.where(kept, ranked, 2.0), -1, keepdims=True)
  return jnp.where(probs >= smallest, log_probs, NEVER)


# How guidance grows from t = 1 to t = 0; all end at the full scale.
RAMPS = {
  "constant": jnp.ones_like,
  "linear": lambda t: 1.0 - t,
  "cosine": lambda t: 0.5 * (1.0 + jnp.cos(jnp.pi * t)),
}


def guide(
  pair: Model,
  scale: float | Array,
  *,
  interval: tuple[float, float] = (0.0, 1.0),
  ramp: str = "constant",
) -> Model:
  """Classifier-free guidance (arXiv:2205.16007, eq. 6 and 8) in one call.

  log p = log p(x | null) + (scale + 1) (log p(x | cond) - log p(x | null)).

  Args:
    pair: a model over a batch of 2b whose first half is conditional and whose
      second half is unconditional.
    scale: the paper's s, scalar; 0 is the conditional model. The released code
      calls s + 1 its guidance scale.
    interval: times (from, to) between which there is guidance at all
      (arXiv:2404.07724).
    ramp: a name in RAMPS, how the scale depends on time.

  Returns:
    A model over a batch of b.

  Raises:
    ValueError: an unknown ramp, or an interval that is none.
  """
  if ramp not in RAMPS:
    raise ValueError(plugins.unknown(ramp, RAMPS, "There is no guidance_ramp"))
  low, high = interval
  if not 0 <= low < high <= 1:
    raise ValueError(
      f"guidance_interval is two times 0 <= from < to <= 1, not {interval}."
    )

  def mix(twice: Array, t: Array) -> Array:
    given, free = jnp.split(twice, 2)
    active = (low <= t) & (t <= high)
    s = scale * jnp.where(active, RAMPS[ramp](t), 0.0)
    s = s.reshape(-1, *[1] * (given.ndim - 1))
    return jax.nn.log_softmax(free + (s + 1.0) * (given - free))

  return change(pair, mix, copies=2)
