"""Ancestral sampling: the reverse chain of any Markov prior, with any steps."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax.samplers import _state
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
  grid: str = "time",
) -> Run:
  """Draws ids from the chain down the grid t_0 > ... > t_steps = 0.

  It starts at t_0 = 1, or, where ids are known, at the time when as many are
  lost as are free (arXiv:2111.12701, section 4.5): the network is
  told no more noise than it sees. A chain of embeddings starts at 1 all the
  same: there what is known is as noisy as the rest.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has the methods in `NEEDS`.
    shape: (b, n).
    steps: network calls; any number, whatever the prior was trained with.
      A chain of embeddings needs one more call at its end.
    known: ids [b n] that must not change, with `prior.vocab_size` where free;
      the start is that of the mean over the batch.
    grid: a name in `_state.GRIDS`: what is equally spaced.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`; of embeddings, the codes that make them most probable.

  Raises:
    ValueError: steps < 1, or there is no such grid.
  """
  key_start, key_steps, key_end = jax.random.split(key, 3)
  times = _state.grid(prior, steps, grid)
  if known is not None and model.codes is None:
    times *= level(prior, known)
  hold = _state.holder(model, prior, known)

  def step(z: Array, inputs: tuple[Key, Array, Array]):
    key, t, s = inputs
    z = hold(key, prior.reverse(key, model, z, t, s), s)
    return z, z

  start = prior.start(key_start, model, shape)
  start = hold(key_start, start, times[0])
  inputs = (jax.random.split(key_steps, steps), times[:-1], times[1:])
  z, states = jax.lax.scan(step, start, inputs)
  states = jnp.concatenate([start[None], states])
  return _state.finish(key_end, model, prior, z, known, states, times)


sample = only("ids", run)
trajectory = only("states", run)
