"""How many tokens each network call reveals: schedules of mask counts.

A schedule says which share of the masks is left after each call, [steps],
falling to 0; tables are made on the host, in float64.
"""

import itertools
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
  counts = np.asarray(schedule, np.float64)
  if counts.shape != (steps,) or counts.min() < 0 or not counts.sum():
    raise ValueError(
      f"A schedule of {steps} steps is a name or {steps} counts of tokens, not"
      f" {schedule}."
    )
  revealed = np.cumsum(counts)
  return jnp.asarray((revealed[-1] - revealed) / revealed[-1], jnp.float32)


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
