"""Token-Critic (arXiv:2209.04439): a second network says what looks drawn.

A self-critic is the first network itself with another last layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.ops import masking
from vq_jax.samplers import _reveal
from vq_jax.samplers._run import Run, only
from vq_jax.steps import Schedule, masks_left
from vq_jax.types import Array, Key, Model

NEEDS = _reveal.NEEDS


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  critic: Callable[[Array], Array],
  known: Array | None = None,
  schedule: Schedule = "cosine",
  noise: float = 1.0,
) -> Run:
  """Each call draws all masked tokens; what looks drawn is masked again.

  Of all tokens, those that earlier calls drew included: none is kept for good
  before the end.

  Args:
    key: one key for the whole batch.
    model: called once a step, and the critic too.
    prior: has what is in `NEEDS`, and ends in masks.
    shape: (b, n).
    steps: network calls.
    critic: ids [b n] in 0..K-1 -> logit that each is to go [b n]. In a config
      it is the directory of a run with config.stage = "critic".
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    schedule: how many masks are left: a name of `steps.rate`, or how many
      tokens each call reveals.
    noise: width of the uniform noise on logits at the start. It falls to 0 at
      the last call, linearly.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`.

  Raises:
    ValueError: the prior does not end in masks, steps < 1, there is no such
      schedule, or noise < 0.
  """
  if noise < 0:
    raise ValueError(f"noise must be at least 0, not {noise}.")
  left = jnp.asarray(masks_left(schedule, shape[1], steps))
  start = _reveal.masks(prior, shape, known)
  free = start == prior.vocab_size
  left = left[jnp.sum(free, 1)].T  # [steps b]
  width = noise * (1.0 - np.arange(1.0, steps + 1.0) / steps)

  def change(key: Key, z: Array, log_probs: Array, now: tuple) -> Array:
    left, width = now
    key_what, key_where = jax.random.split(key)
    token = jax.random.categorical(key_what, log_probs)
    filled = jnp.where(z == prior.vocab_size, token, z)
    worst = critic(filled) + width * (
      jax.random.uniform(key_where, shape) - 0.5
    )
    again = masking.highest(worst, free, left)
    return jnp.where(again, prior.vocab_size, filled)

  inputs = (left, jnp.asarray(width, jnp.float32))
  return _reveal.descend(key, model, prior, start, change, inputs)


sample = only("ids", run)
trajectory = only("states", run)
