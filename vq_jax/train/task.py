"""A training problem as the loop sees it: pure functions, no base class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vq_jax.types import Array, Batch, Key, Metrics, Params


class State(NamedTuple):
  """All that training changes.

  Attributes:
    step: updates done, int32 scalar.
    ok: False from the first update whose loss or gradient was not finite;
      the state is the last good one and no longer changes.
    params: weights, float32.
    ema: their moving average.
    optimizer: optax state, or one per optimizer.
    extra: what else a task carries from step to step.
  """

  step: Array
  ok: Array
  params: Params
  ema: Params
  optimizer: Any
  extra: Any


class Task(NamedTuple):
  """What `fit` needs of a stage.

  Attributes:
    init: key -> State.
    update: (state, batch, key of this step) -> (State, metrics). Metrics must
      contain `loss` and `grad_norm`.
    source: random-access training examples.
    inputs: keys of an example that `update` reads.
    evaluate: state -> {name: float}, on validation data.
    pictures: name -> (state -> uint8 [h w c]), what one would rather look at.
    warm: fresh weights, on the host -> the weights to start from, if others.
  """

  init: Callable[[Key], State]
  update: Callable[[State, Batch, Key], tuple[State, Metrics]]
  source: Sequence[Mapping[str, Any]]
  inputs: tuple[str, ...]
  evaluate: Callable[[State], dict[str, float]]
  pictures: Mapping[str, Callable[[State], np.ndarray]]
  warm: Callable[[Params], Params] | None = None


def new_state(params: Params, optimizer: Any, extra: Any = ()) -> State:
  """The state before the first update."""
  return State(
    step=jnp.int32(0),
    ok=jnp.bool_(True),
    params=params,
    ema=jax.tree.map(jnp.copy, params),
    optimizer=optimizer,
    extra=extra,
  )


def guarded(update: Callable) -> Callable:
  """An update that folds the step into the key and stops at the first NaN.

  The check costs no host round trip: after a non-finite loss or gradient the
  state stays as it was, whatever the later batches, until the host looks.
  """

  def step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    new, metrics = update(state, batch, jax.random.fold_in(key, state.step))
    ok = state.ok & jnp.isfinite(metrics["loss"])
    ok &= jnp.isfinite(metrics["grad_norm"])
    new = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, state)
    return new._replace(ok=ok), metrics

  return step


def apply_gradients(
  transform: optax.GradientTransformationExtraArgs,
  grads: Params,
  loss: Array,
  state: State,
) -> tuple[Params, Any]:
  """One optimizer step -> (params, optimizer state)."""
  updates, optimizer = transform.update(
    grads, state.optimizer, state.params, value=loss
  )
  return optax.apply_updates(state.params, updates), optimizer
