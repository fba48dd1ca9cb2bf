"""Absorbing diffusion of codes (Unleashing Transformers, arXiv:2111.12701)."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import plugins, schedules
from vq_jax.priors import _chain, _masks
from vq_jax.types import Array, Key, Metrics, Model

# Earlier times are taken to be this one, and weigh together what they should.
# So few masks hardly change what the network expects, but the variance of the
# ELBO term grows without bound as t falls.
EARLIEST = 1e-3


@dataclasses.dataclass(frozen=True)
class Prior:
  """q(z_t | x) = alpha_t x + (1 - alpha_t) mask: tokens decay to one symbol.

  Attributes:
    vocab_size: K; the mask is index K.
    loss_weight: what the masked cross-entropy is multiplied with, by time:
      "elbo": the bound itself, in bits per token.
      "reweighted": (T - t + 1) / T, eq. 7 of the paper.
      "reweighted_released": 1 - t / T, as the authors' code has it: one step
        off, so that t = T is not trained at all.
      "mlm": 1 / (number of masked tokens), in nats per masked token.
    schedule: the masking ratio 1 - alpha(t), a name in `schedules.MASKED`.
    time_steps: T, the number of times that are trained; None is continuous
      time (arXiv:2406.04329), the limit of large T.
    masking: "bernoulli" masks each token with probability 1 - alpha_t; "exact"
      masks round((1 - alpha_t) n) tokens, at least one.
    bound_times: network calls per example in `bits`.
  """

  vocab_size: int
  loss_weight: str = "elbo"
  schedule: str = "linear"
  time_steps: int | None = None
  masking: str = "bernoulli"
  bound_times: int = 8

  def __post_init__(self):
    _masks.check(self)
    if self.loss_weight not in _WEIGHTS:
      raise ValueError(
        plugins.unknown(self.loss_weight, _WEIGHTS, "There is no loss_weight")
      )

  kernel = _masks.kernel
  corrupt = _masks.corrupt
  start = _masks.start
  reverse = _masks.reverse
  reveal = _masks.reveal
  finish = _chain.finish

  def times(self, u: Array) -> tuple[Array, Array]:
    """Uniform u [b] in [0, 1) -> the pair s < t [b] that is trained.

    In continuous time s = t: the interval has length zero.
    """
    if self.time_steps is None:
      t = jnp.maximum(u, EARLIEST)
      return t, t
    return _chain.step(u, self.time_steps)

  def cost(
    self, log_probs: Array, z: Array, x: Array, s: Array, t: Array
  ) -> tuple[Array, Array]:
    """Per-example loss and ELBO term, both [b].

    Args:
      log_probs: log p(x | z) [b n K].
      z: corrupted ids [b n].
      x: clean ids [b n].
      s: the earlier time [b].
      t: the later time [b].

    Returns:
      The weighted loss, in the unit of `loss_weight`, and an unbiased estimate
      of the negative ELBO in bits per token (arXiv:2111.12701, eq. 5-6).
    """
    n = x.shape[1]
    nats = _chain.nats(log_probs, x)  # [b n]
    masked = z == self.vocab_size
    total = jnp.sum(jnp.where(masked, nats, 0.0), 1)
    per_token = total / (n * math.log(2.0))
    weight = _WEIGHTS[self.loss_weight](self, masked, s, t)
    return weight * per_token, _elbo(self, masked, s, t) * per_token

  def loss(
    self,
    key: Key,
    model: Model,
    x: Array,
    *,
    target: Model | None = None,
    memory: Any = (),
  ) -> tuple[Array, tuple[Metrics, Any]]:
    """One time per example, stratified over the batch.

    x: clean ids [b n]. -> (scalar, (metrics, memory)), the memory as it was.
    """
    del target
    key_t, key_z = jax.random.split(key)
    s, t = self.times(_chain.stratified(key_t, x.shape[0]))
    z = self.corrupt(key_z, model, x, t)
    loss, bits = self.cost(model.denoise(z, t), z, x, s, t)
    masked = jnp.mean(z == self.vocab_size)
    metrics = {"bits_per_token": bits.mean(), "masked_fraction": masked}
    return loss.mean(), (metrics, memory)

  def bits(self, key: Key, model: Model, x: Array) -> Array:
    """Unbiased upper bound on -log2 p(x) / n: bits per token [b], x [b n].

    `bound_times` stratified times per example; with `time_steps` = T of them
    every t = 1..T is visited once, as in arXiv:2111.12701, eq. 5.
    """
    return _chain.bits(self, key, model, x)


def _elbo(prior: Prior, hidden: Array, s: Array, t: Array) -> Array:
  del hidden
  if prior.time_steps is None:
    masked = schedules.masked(prior.schedule)
    # All times before it have the same weight: their mean slope.
    early = t <= EARLIEST
    rate = schedules.slope(masked, t) / masked(t)
    return jnp.where(early, 1.0 / EARLIEST, rate)
  lifted = 1.0 - prior.kernel(s).mask / prior.kernel(t).mask
  return prior.time_steps * lifted


def _reweighted(prior: Prior, hidden: Array, s: Array, t: Array) -> Array:
  del prior, hidden, t
  return 1.0 - s


def _released(prior: Prior, hidden: Array, s: Array, t: Array) -> Array:
  del prior, hidden, s
  return 1.0 - t


def _mlm(prior: Prior, hidden: Array, s: Array, t: Array) -> Array:
  del prior, s, t
  n = hidden.shape[1]
  return n * math.log(2.0) / jnp.maximum(jnp.sum(hidden, 1), 1)


_WEIGHTS = {
  "elbo": _elbo,
  "reweighted": _reweighted,
  "reweighted_released": _released,
  "mlm": _mlm,
}
