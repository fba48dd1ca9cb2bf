"""VQ-Diffusion: codes are masked or replaced (arXiv:2111.14822, 2205.16007)."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vq_jax import plugins, schedules, transitions
from vq_jax.priors import _chain, _importance, _replaced
from vq_jax.priors._importance import Memory
from vq_jax.types import Array, Key, Metrics, Model


class Terms(NamedTuple):
  """Of one step, nats per image [b].

  Attributes:
    kl: the bound's term, weighted by `mask_weight`.
    auxiliary: -log p(x | z), weighted so too.
    bound: the bound's term as it is.
  """

  kl: Array
  auxiliary: Array
  bound: Array


@dataclasses.dataclass(frozen=True)
class Prior:
  """A chain of T steps over K codes and a mask, and its variational bound.

  Attributes:
    vocab_size: K; the mask is index K.
    schedule: a name in `schedules.CHAINS`, or a masking ratio.
    time_steps: T.
    auxiliary: weight of the cross-entropy of the clean token, which
      arXiv:2111.14822 adds to the bound.
    adaptive: that weight falls with time, times 2 - s from 2 to 1.
    mask_weight: of tokens that are masked, and that are not.
    draw: "importance" draws times in proportion to the root mean square of
      their terms (arXiv:2102.09672, section 3.3), "uniform" all alike.
    bound_times: network calls per example in `bits`; T visits every step.
  """

  vocab_size: int
  schedule: str = "alpha1"
  time_steps: int = 100
  auxiliary: float = 5e-4
  adaptive: bool = True
  mask_weight: tuple[float, float] = (1.0, 1.0)
  draw: str = "importance"
  bound_times: int = 10

  def __post_init__(self):
    if self.draw not in _importance.DRAWS:
      raise ValueError(
        plugins.unknown(self.draw, _importance.DRAWS, "There is no draw")
      )
    _replaced.check(self)
    if len(self.mask_weight) != 2:
      raise ValueError(f"mask_weight = {self.mask_weight} is not two numbers.")
    schedules.chain(self.schedule, self.time_steps)

  corrupt = _replaced.corrupt
  times = _replaced.times
  bits = _replaced.bits
  start = _replaced.start
  reverse = _replaced.reverse
  finish = _chain.finish

  def kernel(self, t: Array) -> transitions.Kernel:
    """The cumulative kernel at time t."""
    return schedules.chain(self.schedule, self.time_steps)(t)

  def terms(
    self, log_probs: Array, z: Array, x: Array, s: Array, t: Array
  ) -> Terms:
    """The bound's term of the step from t to s, and the auxiliary one.

    KL(q(z_s | z_t, x) || p(z_s | z_t)), which at s = 0 is -log p(x | z_t), and
    -log p(x | z_t), whose sum arXiv:2111.14822 trains.

    Args:
      log_probs: log p(x | z) [b n K].
      z: corrupted ids [b n].
      x: clean ids [b n].
      s: the earlier time [b].
      t: the later time [b].

    Returns:
      Nats per image [b]; the auxiliary one without its weight.
    """
    kl = _replaced.divergence(self, log_probs, z, x, s, t)
    nats = _chain.nats(log_probs, x)
    weight = jnp.where(z == self.vocab_size, *self.mask_weight)
    weight = jnp.where(s[:, None] == 0, 1.0, weight)
    return Terms(
      kl=jnp.sum(weight * kl, 1),
      auxiliary=jnp.sum(weight * nats, 1),
      bound=jnp.sum(kl, 1),
    )

  def cost(
    self, log_probs: Array, z: Array, x: Array, s: Array, t: Array
  ) -> tuple[Array, Array]:
    """Per-example loss, and bound in bits per token, as if T such steps, [b].

    Arguments as for `terms`. The loss is in nats per token of one step.
    """
    terms = self.terms(log_probs, z, x, s, t)
    return self._loss(terms, s, x.shape[1]), self._bits(terms, x.shape[1])

  def _loss(self, terms: Terms, s: Array, n: int) -> Array:
    weight = self.auxiliary * (2.0 - s if self.adaptive else 1.0)
    return (terms.kl + weight * terms.auxiliary) / n

  def _bits(self, terms: Terms, n: int) -> Array:
    return terms.bound * self.time_steps / (n * math.log(2.0))

  def memory(self) -> Memory:
    """Nothing seen yet."""
    return Memory(jnp.zeros(self.time_steps), jnp.zeros(self.time_steps))

  def probabilities(self, memory: Memory) -> Array:
    """Of each step being drawn [T]; uniform until all are familiar."""
    return _importance.DRAWS[self.draw](memory)

  def loss(
    self,
    key: Key,
    model: Model,
    x: Array,
    *,
    target: Model | None = None,
    memory: Memory,
  ) -> tuple[Array, tuple[Metrics, Any]]:
    """An unbiased estimate of T times the mean loss over steps.

    x: clean ids [b n]. -> (scalar, (metrics, memory)).
    """
    del target
    n = x.shape[1]
    key_t, key_z = jax.random.split(key)
    probs = self.probabilities(memory)
    # Inversion keeps the numbers, and so the steps, spread evenly.
    u = _chain.stratified(key_t, x.shape[0])
    index = jnp.searchsorted(jnp.cumsum(probs), u, side="right")
    index = jnp.minimum(index, self.time_steps - 1)
    s, t = index / self.time_steps, (index + 1) / self.time_steps
    z = self.corrupt(key_z, model, x, t)
    terms = self.terms(model.denoise(z, t), z, x, s, t)
    rare = 1.0 / probs[index]
    bits = jnp.mean(self._bits(terms, n) * rare) / self.time_steps
    metrics = {
      "bits_per_token": bits,
      "masked_fraction": jnp.mean(z == self.vocab_size),
    }
    seen = jax.lax.stop_gradient(terms.kl)
    memory = _importance.remember(memory, index, seen)
    return jnp.mean(self._loss(terms, s, n) * rare), (metrics, memory)
