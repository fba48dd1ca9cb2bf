"""D3PM with uniform transitions: codes are replaced (arXiv:2107.03006).

Its absorbing variant, which masks with probability 1 / (T - t + 1) in step t,
is the prior `absorbing` with time_steps = T and the linear schedule. The chain
is also that of multinomial diffusion (arXiv:2102.05379), which puts p(x) into
the posterior in the place of x, where this one sums over x.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import schedules, transitions
from vq_jax.priors import _chain, _replaced
from vq_jax.types import Array, Key, Metrics, Model


@dataclasses.dataclass(frozen=True)
class Prior:
  """A chain of T steps that ends in uniformly drawn codes, without a mask.

  Attributes:
    vocab_size: K. K itself stands for a token that is not known, where samplers
      are told some; the chain never visits it.
    schedule: a name in `schedules.REPLACED`.
    time_steps: T.
    hybrid: weight of -log p(x | z) beside each step's term of the bound, the
      lambda of eq. 5 as the authors' code has it: a T-th part of the bound and
      lambda times the cross-entropy.
    bound_times: network calls per example in `bits`; T visits every step.
  """

  vocab_size: int
  schedule: str = "cosine"
  time_steps: int = 1000
  hybrid: float = 1e-3
  bound_times: int = 10

  corrupt = _replaced.corrupt
  times = _replaced.times
  bits = _replaced.bits
  start = _replaced.start
  reverse = _replaced.reverse
  finish = _chain.finish

  def __post_init__(self):
    schedules.replaced(self.schedule)
    _replaced.check(self)

  def kernel(self, t: Array) -> transitions.Kernel:
    """The cumulative kernel at time t."""
    return schedules.replaced(self.schedule)(t)

  def cost(
    self, log_probs: Array, z: Array, x: Array, s: Array, t: Array
  ) -> tuple[Array, Array]:
    """Per-example loss and bound, as if all T steps were this one, both [b].

    Args:
      log_probs: log p(x | z) [b n K].
      z: corrupted ids [b n].
      x: clean ids [b n].
      s: the earlier time [b].
      t: the later time [b].

    Returns:
      T (bound's term + hybrid * cross-entropy) in nats per token, and the bound
      in bits per token, but for its term at t = 1.
    """
    kl = jnp.mean(_replaced.divergence(self, log_probs, z, x, s, t), 1)
    nats = jnp.mean(_chain.nats(log_probs, x), 1)
    loss = self.time_steps * (kl + self.hybrid * nats)
    return loss, self.time_steps * kl / math.log(2.0)

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
    metrics = {
      "bits_per_token": bits.mean(),
      "replaced_fraction": jnp.mean(z != x),
    }
    return loss.mean(), (metrics, memory)
