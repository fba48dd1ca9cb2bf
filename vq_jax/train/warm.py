"""Weights of another run to start from (config.init_from)."""

import numpy as np

from vq_jax import weights
from vq_jax.types import Params


def merge(old: Params, fresh: Params, where: str) -> Params:
  """The weights `old` in the shape of `fresh`.

  What stands for no condition may be new: features of no caption stay fresh,
  and a table of classes without its row for "no class" gets the mean of its
  rows, which is what such a net means by it.

  Raises:
    ValueError: any other difference; names the tensor.
  """
  old, fresh = weights.flatten(old), weights.flatten(fresh)
  spare = sorted(set(old) - set(fresh) - {"null"})
  if spare:
    raise ValueError(
      f"config.init_from={where}: this config has no weight {spare[0]!r}."
    )
  merged = {
    name: _fit(name, old.get(name), value, where)
    for name, value in fresh.items()
  }
  return weights.unflatten(merged)


def _fit(name: str, old, fresh, where: str) -> np.ndarray:
  if old is None and name == "null":
    return fresh
  if old is None:
    raise ValueError(f"config.init_from={where} has no weight {name!r}.")
  rows = name.endswith("norm/embedding") and old.shape[1] + 1 == fresh.shape[1]
  if rows:
    return np.concatenate([old, old.mean(1, keepdims=True)], 1)
  if old.shape != fresh.shape:
    raise ValueError(
      f"config.init_from={where}: {name!r} is {old.shape} there, and"
      f" {fresh.shape} in this config."
    )
  return old
