"""DDIM (arXiv:2010.02502): the flow of embeddings in few steps."""

from typing import Any

import jax

from vq_jax.samplers import _flow
from vq_jax.samplers._run import Run, only
from vq_jax.types import Array, Key, Model

NEEDS = _flow.NEEDS


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  steps: int,
  known: Array | None = None,
  grid: str = "time",
  eta: float = 0.0,
) -> Run:
  """Each step moves z to where it would be if the guess e^(z_t) were right.

  Args:
    key: one key for the whole batch.
    model: called once a step, and once for the ids at the end.
    prior: has the methods in `NEEDS`.
    shape: (b, n).
    steps: any number.
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
    grid: "time" or "log_snr": what is equally spaced.
    eta: 0 keeps the noise that the guess leaves in z_t: nothing is random but
      the start. 1 draws it anew as the chain does: `ancestral`.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [steps + 1, b n] from
    `trajectory`: the codes that make each state most probable.

  Raises:
    ValueError: steps < 1, eta outside [0, 1], or there is no such grid.
  """
  if not 0 <= eta <= 1:
    raise ValueError(f"eta must be from 0 to 1, not {eta}.")

  def rule(key: Key, z: Array, clean: Array, memory: tuple, t, s, i):
    fresh = jax.random.normal(key, z.shape) if eta else 0.0
    return prior.move(z, clean, t, s, fresh, eta), memory

  return _flow.walk(
    key,
    model,
    prior,
    shape,
    rule,
    lambda z: (),
    steps=steps,
    known=known,
    grid=grid,
  )


sample = only("ids", run)
trajectory = only("states", run)
