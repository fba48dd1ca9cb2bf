"""AdamW with warm-up and clipping, and the moving average of the weights."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vq_jax import plugins
from vq_jax.types import Array, Params


def _constant(lr: float, steps: int) -> optax.Schedule:
  del steps
  return optax.constant_schedule(lr)


def _cosine(lr: float, steps: int) -> optax.Schedule:
  return optax.cosine_decay_schedule(lr, max(steps, 1))


DECAYS = {"constant": _constant, "cosine": _cosine}


def learning_rate(
  lr: float, warmup_steps: int, steps: int, decay: str
) -> optax.Schedule:
  """Linear warm-up from 0, then constant, or cosine to 0 at `steps`."""
  if decay not in DECAYS:
    raise ValueError(plugins.unknown(decay, DECAYS, "There is no decay"))
  after = DECAYS[decay](lr, steps - warmup_steps)
  if not warmup_steps:
    return after
  ramp = optax.linear_schedule(0.0, lr, warmup_steps)
  return optax.join_schedules([ramp, after], [warmup_steps])


def make_optimizer(
  steps: int,
  *,
  lr: float,
  warmup_steps: int = 0,
  decay: str = "constant",
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  decay_vectors: bool = False,
  clip_norm: float | None = None,
) -> optax.GradientTransformation:
  """AdamW; weight decay 0 is Adam.

  Args:
    steps: length of the run, for the cosine.
    lr: peak learning rate.
    warmup_steps: linear from 0.
    decay: what follows the warm-up, "constant" or "cosine".
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: decoupled.
    decay_vectors: also decays biases and norm scales, as the authors of
      VQ-Diffusion do.
    clip_norm: global gradient norm above which gradients are scaled down.

  Returns:
    An optax transformation; moments are float32.
  """
  mask = None if decay_vectors else _matrices
  schedule = learning_rate(lr, warmup_steps, steps, decay)
  return optax.chain(
    # Always present: the optimizer state of a checkpoint must not change shape
    # when a run that diverged is resumed with clipping.
    optax.clip_by_global_norm(math.inf if clip_norm is None else clip_norm),
    optax.adamw(schedule, b1, b2, weight_decay=weight_decay, mask=mask),
  )


def _matrices(params: Params) -> Params:
  return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def check_average(section: Mapping[str, Any]) -> None:
  """ValueError if config.ema has a key that `average` does not take."""
  plugins.check(average, section, "config.ema", ("ema", "params", "step"))


def average(
  ema: Params,
  params: Params,
  step: Array,
  *,
  decay: float = 0.999,
  every: int = 1,
  warmup: bool = True,
) -> Params:
  """The exponential moving average after update number `step` (1, 2, ...).

  Args:
    ema: the average so far, a copy of the weights at first.
    params: the new weights.
    step: number of updates done, scalar.
    decay: per averaging step.
    every: averages only at multiples of it (10 in arXiv:2111.12701).
    warmup: uses at most (1 + k) / (10 + k) at averaging step k, so that a short
      run does not remember its initialisation.

  Returns:
    The new average.
  """
  k = step // every
  if warmup:
    decay = jnp.minimum(decay, (1.0 + k) / (10.0 + k))
  rate = jnp.where(step % every == 0, 1.0 - decay, 0.0)
  return jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)
