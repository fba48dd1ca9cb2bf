"""How many tokens each network call reveals: schedules of mask counts.

A schedule says which share of the masks is left after each call, [steps],
falling to 0; tables are made on the host, in float64. `shares` are those of
samplers that reveal for good, `masks_left` those of MaskGIT.
"""

import itertools
import re
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from vq_jax import plugins, schedules
from vq_jax.types import Array

Schedule = str | Sequence[int]


def uniform(n: int, steps: int) -> Array:
  """As many tokens at each call (arXiv:2205.16007, Algorithm 1)."""
  del n
  return schedules.uniform_grid(steps)[1:]


def cosine(n: int, steps: int) -> Array:
  """n cos(pi i / (2 steps)) masks left after call i (arXiv:2202.04200, 3.2).

  Every call reveals at least one token; with more calls than tokens the last
  ones reveal nothing.
  """
  calls = min(n, steps)
  i = np.arange(1, calls + 1)
  left = np.minimum(np.floor(n * np.cos(0.5 * np.pi * i / calls)), n - i)
  return jnp.asarray(np.pad(left / n, (0, steps - calls)), jnp.float32)


def _unmeasured(n: int, steps: int) -> Array:
  raise ValueError(
    "The schedule 'optimal' is made of a trained model's losses: only"
    " --mode=sample and --mode=evaluate know it; elsewhere take 'uniform'."
  )


NAMED: dict[str, Callable[[int, int], Array]] = {
  "uniform": uniform,
  "cosine": cosine,
  "optimal": _unmeasured,
}


def shares(schedule: Schedule, n: int, steps: int) -> Array:
  """The share of its masks that an image has left after each call.

  Args:
    schedule: a name in `NAMED`, or how many tokens each call reveals; of any
      sum, since images may have other numbers of masks.
    n: tokens of an image.
    steps: network calls.

  Returns:
    [steps], falling from below 1 to 0.

  Raises:
    ValueError: steps < 1, an unknown name, or counts that are none.
  """
  schedules.check_steps(steps)
  if isinstance(schedule, str):
    if schedule not in NAMED:
      raise ValueError(plugins.unknown(schedule, NAMED, "There is no schedule"))
    return NAMED[schedule](n, steps)
  return jnp.asarray(_counted(schedule, steps), jnp.float32)


def _counted(schedule: Sequence[int], steps: int) -> np.ndarray:
  counts = np.asarray(schedule, np.float64)
  if counts.shape != (steps,) or counts.min() < 0 or not counts.sum():
    raise ValueError(
      f"A schedule of {steps} steps is a name or {steps} counts of tokens, not"
      f" {schedule}."
    )
  revealed = np.cumsum(counts)
  return (revealed[-1] - revealed) / revealed[-1]


# (share of calls done in (0, 1], masks at the start) -> share of masks left.
RATES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "arccos": lambda ratio, n: np.arccos(ratio) / (0.5 * np.pi),
  "cosine": lambda ratio, n: np.cos(0.5 * np.pi * ratio),
  "exp": lambda ratio, n: 1.0 - n ** (ratio - 1.0),
  "log": lambda ratio, n: -np.log(ratio) / np.log(n),
  "optimal": _unmeasured,
  "uniform": lambda ratio, n: 1.0 - ratio,
}


def rate(name: str, ratio: np.ndarray, n: np.ndarray) -> np.ndarray:
  """MaskGIT's gamma (arXiv:2202.04200, section 3.3, as released).

  Args:
    name: in `RATES`, or "pow" and an exponent e, as in "pow2", for 1 - r^e.
    ratio: r, the share of calls that are done, in (0, 1].
    n: masks at the start, which "exp" and "log" depend on.

  Returns:
    The share of them that is left, in [1e-6, 1], float64.

  Raises:
    ValueError: an unknown name.
  """
  power = re.fullmatch(r"pow(\d+(?:\.\d+)?)", name)
  if not power and name not in RATES:
    legal = [*RATES, "pow2"]
    raise ValueError(plugins.unknown(name, legal, "There is no schedule"))
  if power:
    left = 1.0 - ratio ** float(power[1])
  else:  # One mask leaves nothing to schedule, and has no logarithm.
    left = RATES[name](ratio, np.maximum(n, 2))
  return np.clip(left, 1e-6, 1.0)


def masks_left(
  schedule: Schedule,
  n: int,
  steps: int,
  rounded: Callable[[np.ndarray], np.ndarray] = np.floor,
) -> np.ndarray:
  """How many masks each call leaves, by how many there were.

  m masks become m gamma(i / steps), rounded, yet one fewer by each call as long
  as there are two (arXiv:2202.04200, section 3.2, as released). What is an
  integer in exact arithmetic is one here; released code leaves that to float32.

  Args:
    schedule: a name of `rate`, or counts as for `shares`.
    n: tokens of an image.
    steps: network calls.
    rounded: np.floor, or np.ceil to round what is revealed.

  Returns:
    int32 [n + 1, steps]; row m is that of images with m masks, and ends in 0.

  Raises:
    ValueError: steps < 1, an unknown name, or counts that are none.
  """
  schedules.check_steps(steps)
  masks = np.arange(n + 1)[:, None]
  if not isinstance(schedule, str):
    return np.round(masks * _counted(schedule, steps)).astype(np.int32)
  calls = np.arange(steps + 1)
  left = masks * rate(schedule, calls[1:] / steps, masks)
  left = np.concatenate([masks, rounded(np.round(left, 9))], 1)
  left = np.minimum.accumulate(left + calls, 1) - calls
  left = np.minimum(np.maximum(left[:, 1:], 1), masks)
  left[:, -1] = 0
  return left.astype(np.int32)


def optimal(losses: Sequence[float], steps: int) -> tuple[int, ...]:
  """The counts whose bound is the least, by dynamic programming.

  A call at k masks that leaves j reveals k - j tokens, each at the loss of
  level k, since none of them hears of the others. The sum over calls bounds
  -log p(x), and is least with a token a call (arXiv:2106.03802, section 3, on
  counts instead of times).

  Args:
    losses: expected -log p(x_i | z) of a masked token, nats [n]; entry k - 1
      with k tokens masked.
    steps: network calls.

  Returns:
    Tokens that each of the `steps` calls reveals, at least one, in sum n; zero
    of the calls beyond n.

  Raises:
    ValueError: steps < 1.
  """
  schedules.check_steps(steps)
  n = len(losses)
  calls = min(n, steps)
  masks = np.arange(n + 1)
  reveals = masks[:, None] - masks  # From row to column.
  level = np.concatenate([[0.0], np.asarray(losses, np.float64)])
  cost = np.where(reveals > 0, reveals * level[:, None], np.inf)
  best = np.where(masks == 0, 0.0, np.inf)  # Of no call.
  after = []  # Masks that the first of 1, 2 .. calls leaves.
  for _ in range(calls):
    total = cost + best
    after.append(np.argmin(total, 1))
    best = np.min(total, 1)
  left = [n]
  for table in reversed(after):
    left.append(int(table[left[-1]]))
  counts = [a - b for a, b in itertools.pairwise(left)]
  return tuple(counts) + (0,) * (steps - calls)


def rising(values: Sequence[float], weights: Sequence[float]) -> np.ndarray:
  """The rising sequence nearest to `values` in weighted squares.

  More masks cannot make a token easier to predict on average: what says so is
  noise, which `optimal` would exploit. Neighbours that fall are replaced by
  their mean (pool adjacent violators). values, weights > 0: [n] -> [n].
  """
  blocks: list[tuple[float, float, int]] = []  # Mean, weight, length.
  for value, weight in zip(values, weights, strict=True):
    mean, mass, length = float(value), float(weight), 1
    while blocks and blocks[-1][0] > mean:
      last, heavy, long = blocks.pop()
      mean = (mean * mass + last * heavy) / (mass + heavy)
      mass, length = mass + heavy, length + long
    blocks.append((mean, mass, length))
  means, _, lengths = zip(*blocks, strict=True)
  return np.repeat(means, lengths)
