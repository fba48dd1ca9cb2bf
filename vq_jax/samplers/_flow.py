"""Down the path of embeddings, from one guess of the clean ones to the next."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vq_jax.samplers import _state
from vq_jax.samplers._run import Run
from vq_jax.types import Array, Key, Model

NEEDS = ("start", "estimate", "move", "finish")

# (key, z_t, guess e^(z_t), memory, t, s, is it the last step) -> (z_s, memory)
Rule = Callable[..., tuple[Array, Any]]


def walk(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  rule: Rule,
  memory: Callable[[Array], Any],
  *,
  steps: int,
  known: Array | None,
  grid: str,
) -> Run:
  """One network call a step, and one for the ids at the end.

  What is known keeps the same noise all the way, so that it moves on a path of
  its own as the rest does. Arguments as for `sample`; the rule of a step; what
  it remembers before the first one, given z.
  """
  key_start, key_steps, key_end = jax.random.split(key, 3)
  times = _state.grid(prior, steps, grid)
  hold = _state.holder(model, prior, known)

  def step(carry: tuple[Array, Any], inputs: tuple[Key, Array, Array, Array]):
    (z, before), (key, t, s, i) = carry, inputs
    clean = prior.estimate(model, z, t)
    z, before = rule(key, z, clean, before, t, s, i)
    z = hold(key_start, z, s)
    return (z, before), z

  start = hold(key_start, prior.start(key_start, model, shape), times[0])
  keys = jax.random.split(key_steps, steps)
  inputs = (keys, times[:-1], times[1:], jnp.arange(steps))
  (z, _), states = jax.lax.scan(step, (start, memory(start)), inputs)
  states = jnp.concatenate([start[None], states])
  return _state.finish(key_end, model, prior, z, known, states, times)
