"""DPM-Solver++(2M) (arXiv:2211.01095): the flow of embeddings to second order.

arXiv:2410.14758 did not have it. It costs no more calls than `ddim`.
"""

from typing import Any

import jax.numpy as jnp

from vq_jax.samplers import _flow
from vq_jax.samplers._run import Run, only
from vq_jax.types import Array, Key, Model

NEEDS = (*_flow.NEEDS, "log_snr")


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  grid: str = "time",
) -> Run:
  """`ddim` with a guess that is continued from the last two (Algorithm 2).

  On a line through them over log SNR, to the middle of the step. The first step
  has no other guess, and the last one, which over time is by far the longest,
  would go astray: both are those of `ddim`.

  Args:
    key: one key for the whole batch.
    model: called once a step, and once for the ids at the end.
    prior: has the methods in `NEEDS`.
    shape: (b, n).
    steps: any number.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    grid: "time" or "log_snr": what is equally spaced.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`: the codes that make each state most probable.

  Raises:
    ValueError: steps < 1, or there is no such grid.
  """

  def rule(key: Key, z: Array, clean: Array, memory: tuple, t, s, i):
    del key
    before, length = memory
    now = prior.log_snr(s) - prior.log_snr(t)
    plain = (i == 0) | (i == steps - 1)
    ahead = jnp.where(plain, 0.0, 0.5 * now / length)
    z = prior.move(z, clean + ahead * (clean - before), t, s)
    return z, (clean, now)

  return _flow.walk(
    key,
    model,
    prior,
    shape,
    rule,
    lambda z: (jnp.zeros_like(z), jnp.float32(1.0)),
    steps=steps,
    known=known,
    grid=grid,
  )


sample = only("ids", run)
trajectory = only("states", run)
