"""Masking ratios over time, chains that also replace tokens, and time grids.

A schedule maps t in [0, 1] to the probability 1 - alpha(t) that a token is
masked by then, from 0 at t = 0 to 1 at t = 1, rising. The ratio and not alpha
is what is written down: the ELBO divides by it, and 1 - alpha has no correct
digit left near t = 0. Slopes come from `jax.grad`, never from a second formula.

A chain maps t to the cumulative `Kernel`: what is kept, replaced by a uniformly
drawn code, and masked by then.

Of a Gaussian chain it is log SNR that is written down: see `shifted_cosine`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax import plugins, transitions
from vq_jax.transitions import Kernel
from vq_jax.types import Array

Schedule = Callable[[Array], Array]
Chain = Callable[[Array], Kernel]


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


def alpha1(t: Array, steps: int) -> Kernel:
  """The schedule of the released VQ-Diffusion models.

  keep falls from 0.99999 at step 1 to 9e-6 at step T, mask rises from 9e-6 to
  0.99999, both linearly in the step; before step 1 lies the identity. That
  leaves one token in a million to be replaced, at every step. Between steps the
  three are interpolated, so that sampling may stop anywhere.

  Args:
    t: times of any shape; step i of T is t = i / T.
    steps: T, at least 2.

  Returns:
    The cumulative kernel, each probability with full float32 precision.
  """
  step = t * steps
  # A multiple of 1 / T need not come back as an integer, but close to T the
  # small number `keep` has a slope that magnifies the difference.
  nearest = jnp.round(step)
  step = jnp.where(jnp.abs(step - nearest) < 1e-4, nearest, step)
  first = jnp.clip(step, 0.0, 1.0)  # Up to step 1, from the identity.
  late = jnp.clip(step - 1.0, 0.0) / (steps - 1)
  soon = jnp.clip(steps - step, 0.0, steps - 1.0) / (steps - 1)
  most, least = 0.99999, 9e-6
  return Kernel(
    keep=(1.0 - first) + first * (soon * most + late * least),
    uniform=first * 1e-6,
    mask=first * (soon * least + late * most),
  )


def mixture(t: Array, steps: int) -> Kernel:
  """A tenth of what is lost is replaced, the rest masked (arXiv:2111.14822).

  Mask and uniform mass grow linearly to 0.9 and 0.1.
  """
  del steps
  return Kernel(1.0 - t, 0.1 * t, 0.9 * t)


CHAINS: dict[str, Callable[[Array, int], Kernel]] = {
  "alpha1": alpha1,
  "mixture": mixture,
}


def chain(name: str, steps: int) -> Chain:
  """The cumulative kernel over time called `name`, of a chain of T steps.

  Every masking ratio is a chain too: that of absorbing diffusion.

  Raises:
    ValueError: no such chain; lists the choices.
  """
  if name in CHAINS:
    return lambda t: CHAINS[name](t, steps)
  if name not in MASKED:
    names = [*CHAINS, *MASKED]
    raise ValueError(plugins.unknown(name, names, "There is no schedule"))
  return lambda t: transitions.absorbing(MASKED[name](t))


def slope(schedule: Schedule, t: Array) -> Array:
  """The derivative of a schedule at each t [b] -> [b]."""
  return jax.vmap(jax.grad(schedule))(t)


def check_steps(steps: int) -> None:
  """ValueError unless a sampler has a step to take."""
  if steps < 1:
    raise ValueError(f"A sampler needs at least 1 step, not {steps}.")


def uniform_grid(steps: int) -> Array:
  """1 = t_0 > ... > t_steps = 0, equally spaced. -> [steps + 1]."""
  check_steps(steps)
  return jnp.linspace(1.0, 0.0, steps + 1)


def shifted_cosine(t: Array, shift: float) -> Array:
  """log SNR = 2 ln shift - 2 ln tan(pi t / 2) (arXiv:2301.11093, section 3.1).

  SNR = alpha^2 / sigma^2 of a chain with alpha^2 + sigma^2 = 1. shift = 1 is
  the cosine schedule; less is more noise at every time, the curve moved to the
  left (arXiv:2410.14758, section 4.3).

  Args:
    t: times of any shape in (0, 1); the ends are infinite.
    shift: positive.

  Returns:
    log SNR, falling in t.
  """
  # 1 - t is exact where the tangent is steep, and pi t / 2 is not.
  sine, cosine = jnp.sin(0.5 * jnp.pi * t), jnp.sin(0.5 * jnp.pi * (1.0 - t))
  return 2.0 * (math.log(shift) + jnp.log(cosine) - jnp.log(sine))


def shifted_cosine_time(log_snr: Array, shift: float) -> Array:
  """The time in (0, 1) at which `shifted_cosine` has that log SNR."""
  return jnp.arctan2(shift, jnp.exp(0.5 * log_snr)) * (2.0 / jnp.pi)
