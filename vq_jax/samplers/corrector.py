"""Predictor-corrector: noise is added and removed again at every stop.

With embeddings, and tokens that are known, this is RePaint (arXiv:2201.09865,
Algorithm 1): each of the two is drawn again with the other in sight.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import transitions
from vq_jax.samplers import _state
from vq_jax.samplers._run import Run, only
from vq_jax.samplers.ancestral import level
from vq_jax.types import Array, Key, Model

NEEDS = ("start", "reverse", "finish")


def forward(prior: Any, key: Key, z: Array, s: Array, t: Array) -> Array:
  """z_t ~ q(z_t | z_s), s <= t scalars, of ids or of embeddings.

  Raises:
    ValueError: the prior has neither a kernel nor a step of its own.
  """
  if hasattr(prior, "forward"):
    return prior.forward(key, z, s, t)
  if hasattr(prior, "kernel"):
    kernel = transitions.between(prior.kernel(s), prior.kernel(t))
    return transitions.forward(key, kernel, z, prior.vocab_size)
  raise ValueError(
    "The sampler 'corrector' needs a prior that can add noise to a state, with"
    f" kernel or forward; {type(prior).__module__} has neither."
  )


def move(
  key: Key,
  model: Model,
  prior: Any,
  z: Array,
  low: Array,
  high: Array,
  s: Array,
) -> Array:
  """z at time `low` -> z_s: forward to `high` >= low, and from there back.

  With low = s this is a correction, and with the exact model q(z_s) does not
  change, however long the way is: both factors are those of the chain. In an
  infinitely short time it is the corrector of arXiv:2205.14987.
  """
  key_forth, key_back = jax.random.split(key)
  z = forward(prior, key_forth, z, low, high)
  return prior.reverse(key_back, model, z, high, s)


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  grid: str = "time",
  corrections: int = 1,
  length: float | None = None,
) -> Run:
  """`ancestral`, whose tokens are corrected after each step.

  What a step gets wrong, because it draws tokens without regard to each other,
  later steps can revise: also of priors whose tokens otherwise never change.

  Args:
    key: one key for the whole batch.
    model: called steps * (corrections + 1) times. A chain of embeddings needs
      one more call at its end.
    prior: has the methods in `NEEDS`, and `kernel` or `forward`.
    shape: (b, n).
    steps: any number.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    grid: a name in `_state.GRIDS`: what is equally spaced.
    corrections: at each stop, the last one included; 0 is `ancestral`, 9 is
      RePaint as published.
    length: of the way forth, in time; None goes back to the stop before.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`: those after the corrections.

  Raises:
    ValueError: steps < 1, corrections < 0, length outside (0, 1], there is no
      such grid, or the prior cannot add noise.
  """
  if corrections < 0 or not (length is None or 0 < length <= 1):
    raise ValueError(
      f"corrections = {corrections} must be at least 0, and length = {length}"
      " in (0, 1]."
    )
  key_start, key_steps, key_end = jax.random.split(key, 3)
  times = _state.grid(prior, steps, grid)
  if known is not None and model.codes is None:
    times *= level(prior, known)
  hold = _state.holder(model, prior, known)
  back, stop = times[:-1], times[1:]
  if length is not None:
    back = jnp.minimum(stop + length, times[0])
  # The first move to a stop is from the one before, and adds no noise.
  first = jnp.arange(corrections + 1) == 0
  low = jnp.where(first, times[:-1, None], stop[:, None])
  high = jnp.where(first, times[:-1, None], back[:, None])

  def step(z: Array, inputs: tuple[Key, Array, Array, Array]):
    *moves, s = inputs

    def one(z: Array, inputs: tuple[Key, Array, Array]):
      key, low, high = inputs
      z = hold(key, move(key, model, prior, z, low, high, s), s)
      return z, None

    z, _ = jax.lax.scan(one, z, tuple(moves))
    return z, z

  start = prior.start(key_start, model, shape)
  start = hold(key_start, start, times[0])
  keys = jax.random.split(key_steps, (steps, corrections + 1))
  z, states = jax.lax.scan(step, start, (keys, low, high, stop))
  states = jnp.concatenate([start[None], states])
  return _state.finish(key_end, model, prior, z, known, states, times)


sample = only("ids", run)
trajectory = only("states", run)
