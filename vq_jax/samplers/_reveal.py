"""From masks to ids by counts: what all that reveal on schedule share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import schedules
from vq_jax.ops import masking
from vq_jax.samplers._run import Run
from vq_jax.steps import Schedule, shares
from vq_jax.types import Array, Key, Model

NEEDS = ("kernel", "vocab_size", "time_steps")

# log p(x | z) [b n K] -> log-weights of the positions [b n], and the log p that
# tokens are drawn from [b n K].
Rule = Callable[[Array], tuple[Array, Array]]
# (key, z [b n], log p(x | z) [b n K], inputs of the step) -> z [b n].
Change = Callable[[Key, Array, Array, Any], Array]


def walk(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  rule: Rule,
  *,
  steps: int,
  known: Array | None,
  schedule: Schedule,
) -> Run:
  """From masks (or `known`) to ids in `steps` calls of the network.

  After each call the schedule's share of an image's m masks is left, rounded;
  with "uniform" each call reveals m / steps tokens, rounded up or down.
  Arguments as for `sample`, and the rule of each call.
  """
  share = shares(schedule, shape[1], steps)
  start = masks(prior, shape, known)
  total = jnp.sum(start == prior.vocab_size, 1)
  left = jnp.round(share[:, None] * total).astype(jnp.int32)  # [steps b]

  def change(key: Key, z: Array, log_probs: Array, left: Array) -> Array:
    key_where, key_what = jax.random.split(key)
    hidden = jnp.sum(z == prior.vocab_size, 1)
    log_weights, log_probs = rule(log_probs)
    where = jax.random.gumbel(key_where, shape)
    what = jax.random.gumbel(key_what, log_probs.shape)
    return reveal(z, log_weights, log_probs, hidden - left, where, what)

  return descend(key, model, prior, start, change, left)


def descend(
  key: Key, model: Model, prior: Any, start: Array, change: Change, inputs: Any
) -> Run:
  """A network call for each step, told the time of the masks that it sees.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has what is in `NEEDS`, and ends in masks.
    start: ids [b n] in 0..K.
    change: what a step does with what the network says.
    inputs: of the steps, a tree of arrays [steps ..].
  """
  n = start.shape[1]
  grid, masked = clock(prior, n)

  def step(z: Array, inputs: tuple[Key, Any]):
    key, now = inputs
    hidden = jnp.sum(z == prior.vocab_size, 1)
    log_probs = model.denoise(z, time_of(hidden / n, grid, masked))
    z = change(key, z, log_probs, now)
    return z, z

  steps = len(jax.tree.leaves(inputs)[0])
  inputs = (jax.random.split(key, steps), inputs)
  z, states = jax.lax.scan(step, start, inputs)
  return Run(z, jnp.concatenate([start[None], states]))


def masks(prior: Any, shape: tuple[int, int], known: Array | None) -> Array:
  """What a run starts from: nothing but masks, or `known` [b n]. -> [b n]."""
  if known is None:
    return jnp.full(shape, prior.vocab_size, jnp.int32)
  return jnp.broadcast_to(known, shape).astype(jnp.int32)


def clock(prior: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
  """The prior's times in (0, 1] and the masked fraction at each, both [T].

  Continuous time is read on a grid of n, one time for each number of masks.

  Raises:
    ValueError: at t = 1 something else than masks is left.
  """
  steps = prior.time_steps or n
  grid = np.arange(1, steps + 1, dtype=np.float32) / steps
  # The refusal needs numbers, also while `sample` is traced.
  with jax.ensure_compile_time_eval():
    masked = np.asarray(prior.kernel(jnp.asarray(grid)).mask)
  if masked[-1] < 0.99:
    raise ValueError(
      "A sampler that reveals masked tokens needs a prior that ends in masks;"
      f" {type(prior).__module__} masks {masked[-1]:.0%} of them at t = 1."
    )
  return grid, masked


def chain(
  prior: Any, steps: int, sampler: str
) -> tuple[np.ndarray, np.ndarray]:
  """The grid 1 = t_0 > ... > t_steps = 0, and the masked share at each.

  Args:
    prior: of a chain that masks, and does nothing else.
    steps: of the grid.
    sampler: who needs that.

  Returns:
    Times and probabilities, falling from 1 to 0, both [steps + 1].

  Raises:
    ValueError: the chain is another, or steps < 1.
  """
  # The refusal needs numbers, also while `sample` is traced.
  with jax.ensure_compile_time_eval():
    times = schedules.uniform_grid(steps)
    kernel = jax.tree.map(np.asarray, prior.kernel(times))
  if kernel.mask[0] < 1 or np.any(kernel.uniform > 0):
    raise ValueError(
      f"The sampler {sampler!r} needs a chain that masks every token and"
      f" replaces none; the schedule of {type(prior).__module__} is another:"
      " take 'ancestral'."
    )
  return np.asarray(times), kernel.mask


def time_of(fraction: Array, grid: Array, masked: Array) -> Array:
  """argmin_t |fraction - masked(t)| (arXiv:2205.16007, section 3.2).

  fraction: masked share of each image [b]; grid, masked: from `clock` -> [b].
  """
  nearest = jnp.argmin(jnp.abs(fraction[:, None] - masked), 1)
  return jnp.asarray(grid)[nearest]


def reveal(
  z: Array,
  log_weights: Array,
  log_probs: Array,
  count: Array,
  where: Array,
  what: Array,
) -> Array:
  """Draws positions among the masks, and tokens for them.

  Args:
    z: ids [b n] in 0..K.
    log_weights: of the positions [b n].
    log_probs: of the tokens [b n K], of any sum.
    count: tokens to reveal [b]; all masks if those are fewer.
    where: Gumbel noise [b n].
    what: Gumbel noise [b n K].

  Returns:
    ids [b n].
  """
  hidden = z == log_probs.shape[-1]
  chosen = masking.without_replacement(log_weights, where, hidden, count)
  return jnp.where(chosen, jnp.argmax(log_probs + what, -1), z)
