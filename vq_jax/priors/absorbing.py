"""Absorbing diffusion of codes (Unleashing Transformers, arXiv:2111.12701)."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import plugins, schedules, transitions
from vq_jax.priors import _chain
from vq_jax.types import Array, Key, Metrics, Model

# Earlier times are taken to be this one. The expected ELBO term is flat there,
# since a token is masked with probability ~t and then weighs ~1/t, but its
# variance grows without bound as t falls.
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
    schedules.masked(self.schedule)
    if self.bound_times < 1:
      raise ValueError(f"bound_times must be at least 1: {self.bound_times}.")
    if self.loss_weight not in _WEIGHTS:
      raise ValueError(
        plugins.unknown(self.loss_weight, _WEIGHTS, "There is no loss_weight")
      )
    if self.masking not in _MASKINGS:
      raise ValueError(
        plugins.unknown(self.masking, _MASKINGS, "There is no masking")
      )

  def kernel(self, t: Array) -> transitions.Kernel:
    """The cumulative kernel at time t."""
    return transitions.absorbing(schedules.masked(self.schedule)(t))

  def corrupt(self, key: Key, model: Model | None, x: Array, t: Array) -> Array:
    """z ~ q(z_t | x).  x: ids [b n], t: [b] -> ids [b n]."""
    del model
    mask = _MASKINGS[self.masking](key, self.kernel(t).mask, x.shape)
    return jnp.where(mask, self.vocab_size, x)

  def times(self, u: Array) -> tuple[Array, Array]:
    """Uniform u [b] in [0, 1) -> the pair s < t [b] that is trained.

    In continuous time s = t: the interval has length zero.
    """
    if self.time_steps is None:
      t = jnp.maximum(u, EARLIEST)
      return t, t
    before = jnp.floor(u * self.time_steps)
    return before / self.time_steps, (before + 1) / self.time_steps

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
    nats = -jnp.take_along_axis(log_probs, x[..., None], -1)[..., 0]  # [b n]
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

  def start(self, key: Key, model: Model, shape: tuple[int, int]) -> Array:
    """z at t = 1: all mask. -> ids [b n]."""
    del key, model
    return jnp.full(shape, self.vocab_size, jnp.int32)

  def reverse(
    self, key: Key, model: Model, z: Array, t: Array, s: Array
  ) -> Array:
    """z_s ~ p(z_s | z_t), s < t scalars.  z: ids [b n] -> ids [b n]."""
    key_reveal, key_token = jax.random.split(key)
    log_probs = model.denoise(z, jnp.full(z.shape[:1], t))
    token = jax.random.categorical(key_token, log_probs)
    return self.reveal(jax.random.uniform(key_reveal, z.shape), token, z, t, s)

  def reveal(
    self, u: Array, token: Array, z: Array, t: Array, s: Array
  ) -> Array:
    """Writes `token` where a mask is lifted between t and s.

    A mask is lifted with probability (alpha_s - alpha_t) / (1 - alpha_t): 1/t
    for one step of T (arXiv:2111.12701, section 3.1), exactly 1 at s = 0.
    u: uniform [b n]; token, z: ids [b n] -> ids [b n].
    """
    remask = self.kernel(s).mask / self.kernel(t).mask
    change = (z == self.vocab_size) & (u >= remask)
    return jnp.where(change, token, z)

  def finish(self, key: Key, model: Model, z: Array) -> Array:
    """The ids at t = 0, where no mask is left."""
    del key, model
    return z


def _elbo(prior: Prior, hidden: Array, s: Array, t: Array) -> Array:
  del hidden
  if prior.time_steps is None:
    masked = schedules.masked(prior.schedule)
    return schedules.slope(masked, t) / masked(t)
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


def _bernoulli(key: Key, prob: Array, shape: tuple[int, int]) -> Array:
  return jax.random.uniform(key, shape) < prob[:, None]


def _exact(key: Key, prob: Array, shape: tuple[int, int]) -> Array:
  rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, shape), 1), 1)
  count = jnp.maximum(jnp.round(prob * shape[1]), 1)
  return rank < count[:, None]


_WEIGHTS = {
  "elbo": _elbo,
  "reweighted": _reweighted,
  "reweighted_released": _released,
  "mlm": _mlm,
}
_MASKINGS = {"bernoulli": _bernoulli, "exact": _exact}
