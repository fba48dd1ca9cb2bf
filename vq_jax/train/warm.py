"""Weights of another run to start from (config.init_from)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vq_jax import weights
from vq_jax.types import Params


def null_tables(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  """Pattern of the tables that get a row for "no class"; empty if none does.

  old, new: resolved configs. Time has tables too, so that names alone, or a row
  more, would not tell.
  """
  nulls = [config.get("condition", {}).get("null") for config in (old, new)]
  if nulls != ["fixed", "learnt"]:
    return ""
  norms = "mlp_norm" if new["net"].get("time") else "(attention|mlp)_norm"
  return f"{norms}/embedding$"


# What a run may have that the one it starts from had not.
NEW = r"null|decoder/logsigma/.*"


def merge(old: Params, fresh: Params, where: str, tables: str = "") -> Params:
  """The weights `old` in the shape of `fresh`.

  What stands for no condition may be new: features of no caption stay fresh,
  and tables of classes, which are named by the pattern `tables`, get the mean
  of their rows, which is what a net without that row means by it. So may the
  likelihood head of a tokenizer.

  Raises:
    ValueError: any other difference; names the tensor.
  """
  old, fresh = weights.flatten(old), weights.flatten(fresh)
  spare = sorted(
    name for name in set(old) - set(fresh) if not re.fullmatch(NEW, name)
  )
  if spare:
    raise ValueError(
      f"config.init_from={where}: this config has no weight {spare[0]!r}."
    )
  merged = {
    name: _fit(name, old.get(name), value, where, tables)
    for name, value in fresh.items()
  }
  return weights.unflatten(merged)


def _fit(name: str, old, fresh, where: str, tables: str) -> np.ndarray:
  if old is None and re.fullmatch(NEW, name):
    return fresh
  if old is None:
    raise ValueError(f"config.init_from={where} has no weight {name!r}.")
  if tables and re.search(tables, name):
    old = np.concatenate([old, old.mean(1, keepdims=True)], 1)
  if old.shape != fresh.shape:
    raise ValueError(
      f"config.init_from={where}: {name!r} is {old.shape} there, and"
      f" {fresh.shape} in this config."
    )
  return old
