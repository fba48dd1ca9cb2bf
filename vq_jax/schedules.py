"""alpha(t): the probability that a token survives to time t, and time grids.

Every schedule maps t in [0, 1] to alpha with alpha(0) = 1 and alpha(1) = 0,
decreasing. Slopes come from `jax.grad`, never from a second formula.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.types import Array

Schedule = Callable[[Array], Array]


def linear(t: Array) -> Array:
  """alpha = 1 - t (arXiv:2111.12701, section 3: mask probability t/T)."""
  return 1.0 - t


def cosine(t: Array) -> Array:
  """alpha = 1 - sin(pi t / 2) (arXiv:2406.04329, table 4).

  MD4 writes 1 - cos(pi (1 - t) / 2); the sine keeps full float32 precision in
  1 - alpha near t = 0, where the ELBO divides by it.
  """
  return 1.0 - jnp.sin(0.5 * jnp.pi * t)


def square(t: Array) -> Array:
  """alpha = 1 - t^2 (polynomial schedule of arXiv:2406.04329, table 4)."""
  return 1.0 - jnp.square(t)


ALPHAS: dict[str, Schedule] = {
    "linear": linear,
    "cosine": cosine,
    "square": square,
}


def alpha(name: str) -> Schedule:
  """The schedule called `name`; ValueError lists the choices."""
  if name not in ALPHAS:
    raise ValueError(plugins.unknown(name, ALPHAS, "There is no schedule"))
  return ALPHAS[name]


def slope(schedule: Schedule, t: Array) -> Array:
  """d alpha / dt at each t [b] -> [b]."""
  return jax.vmap(jax.grad(schedule))(t)


def uniform_grid(steps: int) -> Array:
  """1 = t_0 > ... > t_steps = 0, equally spaced. -> [steps + 1]."""
  if steps < 1:
    raise ValueError(f"A sampler needs at least 1 step, not {steps}.")
  return jnp.linspace(1.0, 0.0, steps + 1)
