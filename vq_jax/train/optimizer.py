"""AdamW with warm-up and clipping, and the moving average of the weights."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from vq_jax import plugins
from vq_jax.types import Array, Params


def _constant(lr: float, steps: int) -> optax.Schedule:
  del steps
  return optax.constant_schedule(lr)


def _cosine(lr: float, steps: int) -> optax.Schedule:
  return optax.cosine_decay_schedule(lr, max(steps, 1))


# "plateau" is constant here; what shrinks it is a transformation of its own.
DECAYS = {"constant": _constant, "cosine": _cosine, "plateau": _constant}


def learning_rate(
  lr: float,
  warmup_steps: int,
  steps: int,
  decay: str,
  start_lr: float = 0.0,
) -> optax.Schedule:
  """Linear warm-up, then constant, or cosine to 0 at `steps`."""
  if decay not in DECAYS:
    raise ValueError(plugins.unknown(decay, DECAYS, "There is no decay"))
  after = DECAYS[decay](lr, steps - warmup_steps)
  if not warmup_steps:
    return after
  ramp = optax.linear_schedule(start_lr, lr, warmup_steps)
  return optax.join_schedules([ramp, after], [warmup_steps])


def make_optimizer(
  steps: int,
  *,
  lr: float,
  start_lr: float = 0.0,
  warmup_steps: int = 0,
  decay: str = "constant",
  patience: int = 10_000,
  factor: float = 0.5,
  threshold: float = 0.1,
  min_lr: float = 1e-6,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  decay_vectors: bool = False,
  clip_norm: float | None = None,
  only: str = "",
) -> optax.GradientTransformationExtraArgs:
  """AdamW; weight decay 0 is Adam.

  Args:
    steps: length of the run, for the cosine.
    lr: peak learning rate.
    start_lr: learning rate of the first update, if there is a warm-up.
    warmup_steps: linear from `start_lr` to `lr`.
    decay: what follows the warm-up, "constant", "cosine" or "plateau".
    patience: of "plateau": updates in a row without a better loss that are
      borne; the next one lowers the rate, for itself as well.
    factor: of "plateau": by which the rate is multiplied.
    threshold: of "plateau": by which fraction a better loss is lower.
    min_lr: of "plateau": the rate never falls below it.
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: decoupled.
    decay_vectors: also decays biases and norm scales, as the authors of
      VQ-Diffusion do.
    clip_norm: global gradient norm above which gradients are scaled down.
    only: pattern of the names of weights that are trained, such as "null";
      empty trains all.

  Returns:
    An optax transformation whose update wants the loss as `value`; moments are
    float32.

  Raises:
    ValueError: `only` is no pattern; at `init`, it names no weight.
  """
  try:
    re.compile(only)
  except re.error as error:
    raise ValueError(f"config.optimizer.only={only!r}: {error}.") from error
  mask = None if decay_vectors else _matrices
  schedule = learning_rate(lr, warmup_steps, steps, decay, start_lr)
  rest = optax.masked(optax.set_to_zero(), lambda params: _others(only, params))
  return optax.chain(
    # Always present, all of it: the optimizer state of a checkpoint must not
    # change shape when a run is resumed with clipping, say, after it diverged.
    rest,
    optax.clip_by_global_norm(math.inf if clip_norm is None else clip_norm),
    optax.adamw(schedule, b1, b2, weight_decay=weight_decay, mask=mask),
    rest,  # Of weight decay.
    optax.contrib.reduce_on_plateau(
      factor,
      patience=patience + 1,
      rtol=threshold,
      atol=0.0,
      min_scale=min_lr / lr if decay == "plateau" else 1.0,
    ),
  )


def _others(only: str, params: Params) -> Params:
  """True for the weights whose name does not contain the pattern."""

  def other(path: tuple, leaf: Array) -> bool:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return re.search(only, name) is None

  others = jax.tree_util.tree_map_with_path(other, params)
  if all(jax.tree.leaves(others)):
    raise ValueError(f"config.optimizer.only={only!r} names no weight.")
  return others


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
