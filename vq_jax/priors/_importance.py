"""Which steps of a chain are trained: pure state, probabilities, update."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vq_jax.types import Array

# Importance sampling starts when every time has been drawn more often.
FAMILIAR = 10


class Memory(NamedTuple):
  """What importance sampling of times has seen.

  Attributes:
    history: running mean of the squared bound terms at each step [T], nats^2.
    count: how often each step was drawn [T].
  """

  history: Array
  count: Array


def remember(memory: Memory, index: Array, nats: Array) -> Memory:
  """After terms `nats` [b] of the steps `index` [b].

  Of a step that was drawn twice only the later term is kept, and both are
  counted, as in the released training of VQ-Diffusion.
  """
  steps = memory.history.shape[0]
  order = jnp.arange(index.shape[0])
  last = jax.ops.segment_max(order, index, steps)  # Negative if not drawn.
  squared = jnp.square(nats)[jnp.maximum(last, 0)]
  count = jax.ops.segment_sum(jnp.ones_like(nats), index, steps)
  new = 0.9 * memory.history + 0.1 * squared
  history = jnp.where(count > 0, new, memory.history)
  return Memory(history, memory.count + count)


def uniform(memory: Memory) -> Array:
  """All steps alike: [T]."""
  return jnp.full(memory.history.shape, 1.0 / len(memory.history))


def importance(memory: Memory) -> Array:
  """In proportion to the root of the second moment; the first as the second.

  The term of the first step is of another kind and size (a likelihood, not a
  divergence); it is drawn as often as its neighbour.
  """
  weight = jnp.sqrt(memory.history + 1e-10) + 1e-4
  weight = weight.at[0].set(weight[1])
  familiar = jnp.all(memory.count > FAMILIAR)
  return jnp.where(familiar, weight / jnp.sum(weight), uniform(memory))


DRAWS = {"importance": importance, "uniform": uniform}
