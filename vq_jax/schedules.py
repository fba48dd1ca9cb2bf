"""Masking ratios over time, chains that also replace tokens, and time grids.

A schedule maps t in [0, 1] to the probability 1 - alpha(t) that a token is
masked by then, from 0 at t = 0 to 1 at t = 1, rising. The ratio and not alpha
is what is written down: the ELBO divides by it, and 1 - alpha has no correct
digit left near t = 0. Slopes come from `jax.grad`, never from a second formula.

A schedule of arXiv:2202.04200 is a ratio gamma(r) that falls in r: it is here
at t = 1 - r.

A chain maps t to the cumulative `Kernel`: what is kept, replaced by a uniformly
drawn code, and masked by then.

Of a Gaussian chain it is log SNR that is written down: see `shifted_cosine`.
"""

import math
import re
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
  """1 - alpha = sin(pi t / 2) = cos(pi (1 - t) / 2) (arXiv:2406.04329).

  The cosine of arXiv:2202.04200, section 3.2.
  """
  return jnp.sin(0.5 * jnp.pi * t)


def arccos(t: Array) -> Array:
  """1 - alpha = 2 arccos(1 - t) / pi (arXiv:2310.14400, released code).

  Not `cosine` by another name: its inverse, seen from t = 1. At times drawn
  uniformly both mask 2 / pi of all tokens on average, this one rarely almost
  all of them.
  """
  # Not arccos: 1 - t has lost the digits of a small t.
  return jnp.arctan2(jnp.sqrt(t), jnp.sqrt(2.0 - t)) / (0.25 * jnp.pi)


def square(t: Array) -> Array:
  """1 - alpha = t^2 (polynomial schedule of arXiv:2406.04329)."""
  return jnp.square(t)


def power(t: Array, e: float) -> Array:
  """1 - alpha = 1 - (1 - t)^e: "pow2" is square (arXiv:2202.04200)."""
  return -jnp.expm1(e * jnp.log1p(-t))


def polynomial(t: Array, p: float) -> Array:
  """1 - alpha = t^p (arXiv:2406.04329; p = 0.5 in arXiv:2503.07197)."""
  return t**p


def exponential(t: Array, n: float) -> Array:
  """1 - alpha = (1 - n^-t) / (1 - 1/n), n the number of tokens.

  arXiv:2202.04200 has it without the denominator, as arXiv:2503.07197 has with
  n = e^5: that ends with one token in n unmasked, which a chain must not.
  """
  return jnp.expm1(-math.log(n) * t) / math.expm1(-math.log(n))


def logarithmic(t: Array, n: float) -> Array:
  """1 - alpha = -ln(1 - t) / ln n, at most 1 (arXiv:2202.04200).

  n is the number of tokens; all are masked from t = 1 - 1/n on.
  """
  return -jnp.log1p(-t) / math.log(n)


def concave(t: Array, n: float) -> Array:
  """1 - alpha = ln(1 + (n - 1) t) / ln n (arXiv:2503.07197 with n = e^5)."""
  return jnp.log1p((n - 1.0) * t) / math.log(n)


MASKED: dict[str, Schedule] = {
  "linear": linear,
  "cosine": cosine,
  "arccos": arccos,
  "square": square,
}
# Those with a number in their name, such as "pow2.5", and what it must exceed.
FAMILIES: dict[str, tuple[Callable[[Array, float], Array], float]] = {
  "pow": (power, 0.0),
  "poly": (polynomial, 0.0),
  "exp": (exponential, 1.0),
  "log": (logarithmic, 1.0),
  "ln": (concave, 1.0),
}


def masked(name: str) -> Schedule:
  """The schedule called `name`.

  Raises:
    ValueError: no such schedule, or no such number of one; lists the choices.
  """
  if name in MASKED:
    return MASKED[name]
  found = re.fullmatch(r"([a-z]+)(\d+\.?\d*)", name)
  if not found or found[1] not in FAMILIES:
    raise ValueError(plugins.unknown(name, names(), "There is no schedule"))
  family, least = FAMILIES[found[1]]
  number = float(found[2])
  if number <= least:
    raise ValueError(
      f"The schedule {name!r} needs a number above {least:g} behind"
      f" {found[1]!r}."
    )
  # Exactly 1 at t = 1, whatever the rounding: no token may be left.
  return lambda t: jnp.where(t < 1, jnp.minimum(family(t, number), 1.0), 1.0)


def names() -> list[str]:
  """What `masked` takes; NUMBER stands for one, such as the 2.5 of "pow2.5"."""
  return [*MASKED, *(f"{family}NUMBER" for family in FAMILIES)]


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
  try:
    ratio = masked(name)
  except ValueError:
    choices = [*CHAINS, *names()]
    raise ValueError(
      plugins.unknown(name, choices, "There is no schedule")
    ) from None
  return lambda t: transitions.absorbing(ratio(t))


def replaced_linearly(t: Array) -> Kernel:
  """A code is replaced with probability t, and none is masked.

  One step of T replaces with probability 1 / (T - i + 1) (arXiv:1503.03585).
  """
  return Kernel(1.0 - t, t, jnp.zeros_like(t))


def replaced_by_cosine(t: Array) -> Kernel:
  """keep = cos(a + (pi/2 - a) t) / cos a, a = pi/2 0.008/1.008.

  As released with arXiv:2107.03006: the cosine of arXiv:2102.09672 without its
  square. There the last step keeps a thousandth, here nothing.
  """
  first = 0.5 * math.pi * 0.008 / 1.008
  rest = (0.5 * math.pi - first) * t
  # Products, since 1 - cos loses the digits of a small t, and cos those of a
  # small 1 - t.
  keep = jnp.sin((0.5 * math.pi - first) * (1.0 - t))
  lost = 2.0 * jnp.sin(first + 0.5 * rest) * jnp.sin(0.5 * rest)
  cosine = math.cos(first)
  return Kernel(keep / cosine, lost / cosine, jnp.zeros_like(t))


REPLACED: dict[str, Chain] = {
  "linear": replaced_linearly,
  "cosine": replaced_by_cosine,
}


def replaced(name: str) -> Chain:
  """The chain without masks called `name`; ValueError lists the choices."""
  if name not in REPLACED:
    raise ValueError(plugins.unknown(name, REPLACED, "There is no schedule"))
  return REPLACED[name]


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
