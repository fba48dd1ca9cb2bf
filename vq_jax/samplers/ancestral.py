"""Ancestral sampling: the reverse chain of any Markov prior, with any steps."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import schedules
from vq_jax.types import Array, Key, Model

NEEDS = ("start", "reverse", "finish")


def sample(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
) -> Array:
  """Draws ids from the chain down the grid 1 = t_0 > ... > t_steps = 0.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has the methods in `NEEDS`.
    shape: (b, n).
    steps: network calls; any number, whatever the prior was trained with.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.

  Returns:
    ids [b n] in 0..K-1.
  """
  z, _ = _scan(key, model, prior, shape, steps, known, emit=False)
  return prior.finish(model, z)


def trajectory(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
) -> Array:
  """Every state of the chain that `sample` would run: z [steps + 1, b n]."""
  _, states = _scan(key, model, prior, shape, steps, known, emit=True)
  return states


def _scan(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  steps: int,
  known: Array | None,
  emit: bool,
) -> tuple[Array, Array | None]:
  key_start, key_steps = jax.random.split(key)
  times = schedules.uniform_grid(steps)

  def hold(z: Array) -> Array:
    if known is None:
      return z
    return jnp.where(known == prior.vocab_size, z, known)

  def step(z: Array, inputs: tuple[Key, Array, Array]):
    key, t, s = inputs
    z = hold(prior.reverse(key, model, z, t, s))
    return z, z if emit else None

  start = hold(prior.start(key_start, model, shape))
  grid = (jax.random.split(key_steps, steps), times[:-1], times[1:])
  z, states = jax.lax.scan(step, start, grid)
  if emit:
    states = jnp.concatenate([start[None], states])
  return z, states
