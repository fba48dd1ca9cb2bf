"""Fewer tokens a step, at random positions (arXiv:2205.16007, Algorithm 1)."""

from typing import Any

import jax.numpy as jnp

from vq_jax.samplers import _reveal
from vq_jax.samplers._run import Run, only
from vq_jax.steps import Schedule
from vq_jax.types import Array, Key, Model

NEEDS = _reveal.NEEDS


def rule(log_probs: Array) -> tuple[Array, Array]:
  """Positions all alike; tokens from log p(x | z) [b n K] as it is."""
  return jnp.zeros(log_probs.shape[:-1]), log_probs


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  schedule: Schedule = "uniform",
) -> Run:
  """Each call reveals n / steps masked tokens, rounded up or down, for good.

  That number is the paper's Delta_z, of the uniform schedule: steps = n draws
  one token at a time, and with an exact model from the exact joint law. The
  time that the network is told is the one at which as many tokens are masked,
  in each image.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has what is in `NEEDS`, and ends in masks.
    shape: (b, n).
    steps: network calls, any number; beyond n some reveal nothing.
    known: ids [b n] that must not change, with `prior.vocab_size` where free;
      the free ones are spread over the calls.
    schedule: how many tokens each call reveals: "uniform" n / steps of them,
      "cosine" few at first, or a tuple of `steps` counts, such as that of
      `steps.optimal`; scaled to the masks that an image has.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`.

  Raises:
    ValueError: the prior does not end in masks, steps < 1, or there is no such
      schedule.
  """
  return _reveal.walk(
    key,
    model,
    prior,
    shape,
    rule,
    steps=steps,
    known=known,
    schedule=schedule,
  )


sample = only("ids", run)
trajectory = only("states", run)
