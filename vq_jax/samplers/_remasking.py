"""When a token is masked again: the strategies of ReMDM (arXiv:2503.00307)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vq_jax.samplers import _reveal
from vq_jax.types import NEVER, Array

# The strategy "loop" holds a tenth of the tokens masked between these times.
LOOP = {"time": (0.0, 0.05, 0.55, 1.0), "masked": (0.0, 0.1, 0.1, 1.0)}


class Strategy(NamedTuple):
  """How often a revealed token is masked again.

  Attributes:
    eta: of the paper, where none is given.
    path: (prior, times [steps + 1], n) -> times that the network is told, and
      the share of free tokens that is masked at each.
    remask: (eta, the most there can be, do masks become fewer, doubt [b n]) ->
      probability. Doubt is -p of a token when it was drawn, and NEVER where a
      token is masked or known.
  """

  eta: float
  path: Callable[[Any, Array, int], tuple[Array, Array]]
  remask: Callable[[float, Array, Array, Array], Array]


def _chain(prior: Any, times: Array, n: int) -> tuple[Array, Array]:
  """As the prior has it."""
  del n
  return times, prior.kernel(times).mask / prior.kernel(times[0]).mask


def _loop(prior: Any, times: Array, n: int) -> tuple[Array, Array]:
  """Falls, is held, and falls; told is when as many are masked."""
  clock = _reveal.clock(prior, n)
  masked = jnp.interp(times / times[0], *map(jnp.array, LOOP.values()))
  whole = masked * prior.kernel(times[0]).mask
  return _reveal.time_of(whole, *clock), masked


def _sure(eta: float, most: Array, falls: Array, doubt: Array) -> Array:
  """The less sure a token was, the more often; in sum that of one token."""
  share = jnp.where(doubt > NEVER, jax.nn.softmax(doubt), 0.0)
  return eta * most * share


STRATEGIES = {
  "cap": Strategy(0.008, _chain, lambda eta, most, *_: jnp.minimum(eta, most)),
  "rescale": Strategy(0.015, _chain, lambda eta, most, *_: eta * most),
  "conf": Strategy(1.0, _chain, _sure),
  "loop": Strategy(
    0.02,
    _loop,
    lambda eta, most, falls, _: jnp.where(falls, 0.0, jnp.minimum(eta, most)),
  ),
}
