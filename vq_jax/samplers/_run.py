"""One run of a sampler has two views: what it drew, and how it got there."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from vq_jax.types import Array


class Run(NamedTuple):
  """A finished run: ids [b n], and every state of it, z [steps + 1, b n]."""

  ids: Array
  states: Array


def only(field: str, run: Callable[..., Run]) -> Callable[..., Array]:
  """`run` with one field of its result. Compiled, the other is never stored."""

  @functools.wraps(run)
  def part(*args: Any, **options: Any) -> Array:
    return getattr(run(*args, **options), field)

  return part
