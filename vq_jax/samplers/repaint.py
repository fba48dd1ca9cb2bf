"""RePaint (arXiv:2201.09865): brings what is free to agree with the known."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax.samplers import _state
from vq_jax.samplers._run import Run, only
from vq_jax.types import Array, Key, Model

NEEDS = ("start", "reverse", "forward", "finish")


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  grid: str = "time",
  repeats: int = 10,
) -> Run:
  """`ancestral`, whose every step is undone and taken again (Algorithm 1).

  A step of `ancestral` moves what is free and only then writes what is known
  beside it. With noise added to both, and the step once more, each is drawn
  with the other in sight.

  Args:
    key: one key for the whole batch.
    model: called steps * repeats times, and once for the ids at the end.
    prior: has the methods in `NEEDS`.
    shape: (b, n).
    steps: any number.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    grid: "time" or "log_snr": what is equally spaced.
    repeats: how often a step is taken, 10 in the paper; 1 is `ancestral`.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`: the codes that make each state most probable.

  Raises:
    ValueError: steps < 1, repeats < 1, or there is no such grid.
  """
  if repeats < 1:
    raise ValueError(f"A step is taken at least once, not {repeats} times.")
  key_start, key_steps, key_end = jax.random.split(key, 3)
  times = _state.grid(prior, steps, grid)
  hold = _state.holder(model, prior, known)

  def step(z: Array, inputs: tuple[Key, Array, Array]):
    key, t, s = inputs

    def back(key: Key, z: Array) -> Array:
      return hold(key, prior.reverse(key, model, z, t, s), s)

    def again(z: Array, key: Key):
      key_back, key_forth = jax.random.split(key)
      return prior.forward(key_forth, back(key_back, z), s, t), None

    last, *others = jax.random.split(key, repeats)
    z, _ = jax.lax.scan(again, z, jnp.stack(others)) if others else (z, None)
    z = back(last, z)
    return z, z

  start = prior.start(key_start, model, shape)
  start = hold(key_start, start, times[0])
  inputs = (jax.random.split(key_steps, steps), times[:-1], times[1:])
  z, states = jax.lax.scan(step, start, inputs)
  states = jnp.concatenate([start[None], states])
  return _state.finish(key_end, model, prior, z, known, states, times)


sample = only("ids", run)
trajectory = only("states", run)
