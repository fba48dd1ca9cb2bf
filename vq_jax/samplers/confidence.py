"""MaskGIT's parallel decoding: what is sure stays (arXiv:2202.04200)."""

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


def decide(
  z: Array,
  log_probs: Array,
  left: Array,
  temperature: Array | float,
  what: Array,
  where: Array,
) -> Array:
  """Draws every masked token, and masks the least sure of them again.

  A token's confidence is log p of what was drawn, and noise.

  Args:
    z: ids [b n] in 0..K.
    log_probs: log p(x | z) [b n K], of any sum.
    left: masks that stay [b].
    temperature: of the noise on confidence, scalar.
    what: noise on the tokens [b n K], standard Gumbel to draw from p.
    where: Gumbel noise [b n].

  Returns:
    ids [b n].
  """
  hidden = z == log_probs.shape[-1]
  token = jnp.argmax(log_probs + what, -1)
  sure = jnp.take_along_axis(log_probs, token[..., None], -1)[..., 0]
  again = masking.highest(-(sure + temperature * where), hidden, left)
  return jnp.where(hidden & ~again, token, z)


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  schedule: Schedule = "cosine",
  choice_temperature: float = 4.5,
  anneal_tokens: bool = False,
  skip: int = 0,
) -> Run:
  """Each call draws all masked tokens and keeps the surest, for good.

  Args:
    key: one key for the whole batch.
    model: called steps - skip times.
    prior: has what is in `NEEDS`, and ends in masks.
    shape: (b, n).
    steps: network calls, of which every one reveals a token and the last all
      that are left.
    known: ids [b n] that must not change, with `prior.vocab_size` where free;
      the free ones are spread over the calls.
    schedule: how many masks are left: a name of `steps.rate`, or how many
      tokens each call reveals.
    choice_temperature: of the Gumbel noise on confidence at the start. It falls
      to 0 at the last call, linearly.
    anneal_tokens: that temperature, and not 1, is also what tokens are drawn
      at, so that the last are modes (arXiv:2406.07550, as released).
    skip: calls that are left out at the start. An edit whose `known` tokens
      tell most of the image starts late, as in the released demo.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps - skip + 1, b n] from
    `trajectory`.

  Raises:
    ValueError: the prior does not end in masks, steps < 1, there is no such
      schedule, a negative temperature, or skip leaves no call.
  """
  left = jnp.asarray(masks_left(schedule, shape[1], steps))
  if not 0 <= skip < steps or choice_temperature < 0:
    raise ValueError(
      f"skip = {skip} must leave some of {steps} steps, and choice_temperature"
      f" = {choice_temperature} be at least 0."
    )
  start = _reveal.masks(prior, shape, known)
  left = left[jnp.sum(start == prior.vocab_size, 1)].T  # [steps b]
  heat = choice_temperature * (1.0 - np.arange(1.0, steps + 1.0) / steps)

  def change(key: Key, z: Array, log_probs: Array, now: tuple) -> Array:
    left, heat = now
    key_where, key_what = jax.random.split(key)
    what = jax.random.gumbel(key_what, log_probs.shape)
    where = jax.random.gumbel(key_where, shape)
    what = heat * what if anneal_tokens else what
    return decide(z, log_probs, left, heat, what, where)

  inputs = (left[skip:], jnp.asarray(heat[skip:], jnp.float32))
  return _reveal.descend(key, model, prior, start, change, inputs)


sample = only("ids", run)
trajectory = only("states", run)
