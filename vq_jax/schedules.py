"""Masking ratios over time, and time grids.

A schedule maps t in [0, 1] to the probability 1 - alpha(t) that a token is
masked by then, from 0 at t = 0 to 1 at t = 1, rising. The ratio and not alpha
is what is written down: the ELBO divides by it, and 1 - alpha has no correct
digit left near t = 0. Slopes come from `jax.grad`, never from a second formula.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.types import Array

Schedule = Callable[[Array], Array]


def linear(t: Array) -> Array:
  """1 - alpha = t (arXiv:2111.12701, section 3: mask probability t/T)."""
  return t


def cosine(t: Array) -> Array:
  """1 - alpha = sin(pi t / 2) = cos(pi (1 - t) / 2) (arXiv:2406.04329)."""
  return jnp.sin(0.5 * jnp.pi * t)


def square(t: Array) -> Array:
  """1 - alpha = t^2 (polynomial schedule of arXiv:2406.04329)."""
  return jnp.square(t)


MASKED: dict[str, Schedule] = {
  "linear": linear,
  "cosine": cosine,
  "square": square,
}


def masked(name: str) -> Schedule:
  """The schedule called `name`; ValueError lists the choices."""
  if name not in MASKED:
    raise ValueError(plugins.unknown(name, MASKED, "There is no schedule"))
  return MASKED[name]


def slope(schedule: Schedule, t: Array) -> Array:
  """The derivative of a schedule at each t [b] -> [b]."""
  return jax.vmap(jax.grad(schedule))(t)


def uniform_grid(steps: int) -> Array:
  """1 = t_0 > ... > t_steps = 0, equally spaced. -> [steps + 1]."""
  if steps < 1:
    raise ValueError(f"A sampler needs at least 1 step, not {steps}.")
  return jnp.linspace(1.0, 0.0, steps + 1)
