"""Token after token in raster order: the baseline of arXiv:2111.12701."""

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp

from vq_jax.priors import _chain
from vq_jax.types import Array, Key, Metrics, Model


@dataclasses.dataclass(frozen=True)
class Prior:
  """log p(x) = sum_i log p(x_i | x_<i), arXiv:2111.12701, eq. 1.

  Nothing is corrupted: the net is causal, with a start token of its own, and
  says p(x_i | x_<i) at position i of the clean ids. There is no mask, though K
  still stands for a token that is not drawn yet, and no time.

  Attributes:
    vocab_size: K.
    causal: the net must look back only.
  """

  vocab_size: int
  causal: ClassVar[bool] = True

  def loss(
    self,
    key: Key,
    model: Model,
    x: Array,
    *,
    target: Model | None = None,
    memory: Any = (),
  ) -> tuple[Array, tuple[Metrics, Any]]:
    """The likelihood itself, in bits per token.

    x: clean ids [b n]. -> (scalar, (metrics, memory)), the memory as it was.
    """
    del target
    bits = jnp.mean(self.bits(key, model, x))
    return bits, ({"bits_per_token": bits}, memory)

  def bits(self, key: Key, model: Model, x: Array) -> Array:
    """-log2 p(x) / n in bits per token [b], x [b n].

    Exact: no bound, nothing is random, one network call.
    """
    del key
    log_probs = model.denoise(x, jnp.ones(x.shape[:1]))
    return jnp.mean(_chain.nats(log_probs, x), 1) / math.log(2.0)
