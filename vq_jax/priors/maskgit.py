"""MaskGIT: tokens are masked at a random rate, and filled in.

arXiv:2202.04200, whose authors released no training code: what is not in their
configuration and losses is as others read them.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vq_jax.priors import _chain, _masks
from vq_jax.types import Array, Key, Metrics, Model


@dataclasses.dataclass(frozen=True)
class Prior:
  """Cross-entropy of masked tokens, at a rate drawn from a schedule.

  The chain is that of `absorbing` in continuous time; what differs is which
  rates are trained, and how much. Its network hears of no time, being able to
  count the masks; one that has a time is told when as many are masked.

  Attributes:
    vocab_size: K; the mask is index K.
    schedule: the masking ratio at time t, uniform in training: a name that
      `schedules.masked` takes.
    masking: "exact" masks round(ratio n) tokens, at least one; "bernoulli" each
      token with that probability (arXiv:2310.14400).
    least: the lowest ratio that is trained; a lower one becomes this.
    visible_weight: of the cross-entropy of tokens that are not masked: 0 in the
      paper, 0.1 in arXiv:2406.07550, 1 in arXiv:2310.14400.
    label_smoothing: share of the target that is spread over all codes, that of
      the token included.
    bound_times: network calls per example in `bits`.
  """

  vocab_size: int
  schedule: str = "cosine"
  masking: str = "exact"
  least: float = 0.0
  visible_weight: float = 0.0
  label_smoothing: float = 0.1
  bound_times: int = 8
  time_steps: ClassVar[None] = None  # Time is continuous.

  kernel = _masks.kernel
  corrupt = _masks.corrupt
  start = _masks.start
  reverse = _masks.reverse
  finish = _chain.finish

  def __post_init__(self):
    _masks.check(self)
    for name in ("least", "visible_weight", "label_smoothing"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} is {getattr(self, name)}, not in [0, 1].")

  def cost(self, log_probs: Array, z: Array, x: Array) -> Array:
    """Weighted mean of the smoothed cross-entropy, nats per token [b].

    An image counts the same however many of its tokens are masked, as in the
    released code of the loss.

    Args:
      log_probs: log p(x | z) [b n K].
      z: corrupted ids [b n].
      x: clean ids [b n].
    """
    weight = jnp.where(z == self.vocab_size, 1.0, self.visible_weight)
    spread = self.label_smoothing
    nats = (1.0 - spread) * _chain.nats(log_probs, x)
    if spread:
      nats -= spread * jnp.mean(log_probs, -1)
    total = jnp.maximum(jnp.sum(weight, 1), 1e-6)  # There may be no mask.
    return jnp.sum(weight * nats, 1) / total

  def loss(
    self,
    key: Key,
    model: Model,
    x: Array,
    *,
    target: Model | None = None,
    memory: Any = (),
  ) -> tuple[Array, tuple[Metrics, Any]]:
    """One rate per example, stratified over the batch.

    x: clean ids [b n]. -> (scalar, (metrics, memory)), the memory as it was.
    """
    del target
    key_t, key_z = jax.random.split(key)
    t = _chain.stratified(key_t, x.shape[0])
    if self.least:
      t = jnp.maximum(t, _masks.time(self, self.least))
    z = self.corrupt(key_z, model, x, t)
    log_probs = model.denoise(z, t)
    masked = z == self.vocab_size
    nats = jnp.sum(masked * _chain.nats(log_probs, x))
    metrics = {
      "bits_per_masked_token": nats / (jnp.sum(masked) * math.log(2.0) + 1e-6),
      "masked_fraction": jnp.mean(masked),
    }
    return jnp.mean(self.cost(log_probs, z, x)), (metrics, memory)

  def bits(self, key: Key, model: Model, x: Array) -> Array:
    """Unbiased upper bound on -log2 p(x) / n: bits per token [b], x [b n].

    That of revealing token after token in random order (arXiv:2110.02037): the
    mean over counts k = 1..n of the masked tokens' mean cross-entropy at k
    masks. It is the continuous-time bound of every schedule
    (arXiv:2406.04329), whatever was trained. `bound_times` stratified counts
    per example; n of them visit every count once.
    """
    n = x.shape[1]

    def one(i: Array) -> Array:
      key_k, key_z = jax.random.split(jax.random.fold_in(key, i))
      u = (i + jax.random.uniform(key_k, x.shape[:1])) / self.bound_times
      share = (jnp.minimum(jnp.floor(u * n), n - 1) + 1) / n
      masked = _masks.exact(key_z, share, x.shape)
      z = jnp.where(masked, self.vocab_size, x)
      nats = _chain.nats(model.denoise(z, _masks.time(self, share)), x)
      return jnp.sum(masked * nats, 1) / (share * n * math.log(2.0))

    return jnp.mean(jax.lax.map(one, jnp.arange(self.bound_times)), 0)
