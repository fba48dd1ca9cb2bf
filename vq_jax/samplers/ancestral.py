"""Ancestral sampling: the reverse chain of any Markov prior, with any steps."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import schedules
from vq_jax.samplers._run import Run, only
from vq_jax.types import Array, Key, Model

NEEDS = ("start", "reverse", "finish")


def level(prior: Any, known: Array) -> Array:
  """The time, out of n, when the prior has lost the share that is free.

  known: ids [.. n], with `prior.vocab_size` where free -> scalar in (0, 1].
  """
  free = jnp.mean(known == prior.vocab_size)
  n = known.shape[-1]
  times = jnp.arange(1, n + 1) / n
  lost = 1.0 - prior.kernel(times).keep
  return times[jnp.argmin(jnp.abs(lost - free))]


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
) -> Run:
  """Draws ids from the chain down the grid t_0 > ... > t_steps = 0.

  It starts at t_0 = 1, or, where ids are known, at the time when as many are
  lost as are free (arXiv:2111.12701, section 4.5): the network is
  told no more noise than it sees.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has the methods in `NEEDS`.
    shape: (b, n).
    steps: network calls; any number, whatever the prior was trained with.
    known: ids [b n] that must not change, with `prior.vocab_size` where free;
      the start is that of the mean over the batch.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`.

  Raises:
    ValueError: steps < 1.
  """
  key_start, key_steps = jax.random.split(key)
  times = schedules.uniform_grid(steps)
  if known is not None:
    times *= level(prior, known)

  def hold(z: Array) -> Array:
    if known is None:
      return z
    return jnp.where(known == prior.vocab_size, z, known)

  def step(z: Array, inputs: tuple[Key, Array, Array]):
    key, t, s = inputs
    z = hold(prior.reverse(key, model, z, t, s))
    return z, z

  start = hold(prior.start(key_start, model, shape))
  grid = (jax.random.split(key_steps, steps), times[:-1], times[1:])
  z, states = jax.lax.scan(step, start, grid)
  states = jnp.concatenate([start[None], states])
  return Run(prior.finish(model, z), states)


sample = only("ids", run)
trajectory = only("states", run)
