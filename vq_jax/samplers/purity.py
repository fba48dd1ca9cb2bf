"""Purity prior: sure positions first (arXiv:2205.16007, Algorithm 2)."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax.samplers import _reveal
from vq_jax.samplers._run import Run, only
from vq_jax.steps import Schedule
from vq_jax.types import Array, Key, Model

NEEDS = _reveal.NEEDS


def log_purity(log_probs: Array, normalise: bool) -> Array:
  """The logarithm of eq. 8, max_k p(x = k | z): log p [b n K] -> [b n].

  normalise: divide by the largest of each image, as the released code does.
  """
  largest = jnp.max(log_probs, -1)
  if normalise:
    largest -= jnp.max(largest, -1, keepdims=True)
  return largest


def sharpen(log_probs: Array, purity: Array, r: float) -> Array:
  """Eq. 11, log softmax((1 + r purity) log p): log p [b n K], purity [b n]."""
  return jax.nn.log_softmax((1.0 + r * purity)[..., None] * log_probs)


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  schedule: Schedule = "uniform",
  r: float = 1.0,
  normalise: bool = False,
) -> Run:
  """`fewer_tokens`, with positions drawn in proportion to their purity.

  Args:
    key: one key for the whole batch.
    model: called once a step.
    prior: has what is in `NEEDS`, and ends in masks.
    shape: (b, n).
    steps: network calls, any number.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    schedule: how many tokens each call reveals, as for `fewer_tokens`.
    r: how much the tokens of pure positions are sharpened, 0.5 to 2 in the
      paper; 0 draws them from the model as it is.
    normalise: sharpen by purity over its largest in the image, as the released
      code does, where the paper has purity itself. The largest is mostly that
      of a revealed token, of which many priors teach a network nothing. The
      positions are drawn alike.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`.

  Raises:
    ValueError: the prior does not end in masks, steps < 1, there is no such
      schedule, or r < 0.
  """
  if r < 0:
    raise ValueError(f"r must be at least 0, not {r}.")

  def rule(log_probs: Array) -> tuple[Array, Array]:
    purity = log_purity(log_probs, normalise)
    return purity, sharpen(log_probs, jnp.exp(purity), r)

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
