"""What the frozen networks share: their files, their hash, their precision."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import weights
from vq_jax.types import Array, Params

Config = dict[str, Any]
PARAMS = "params.safetensors"


def missing(where: str, family: str, source: str, src: str) -> str:
  """One sentence for a user without weights: which file, and what to run.

  Args:
    where: the directory that was looked for, "" if none was named.
    family: the converter.
    source: which official file it is, and where it comes from.
    src: the file and the options of the command.
  """
  return (
    f"There are no {family} weights at {where!r}: get {source}, and convert it"
    f" once with `python -m vq_jax.main --mode=convert --family={family}"
    f" --src={src} --dst={where or 'DIRECTORY'}`."
  )


def read(directory: str, name: str) -> tuple[Config, Config, Config]:
  """(config, parameters, provenance) of what --mode=convert wrote.

  Raises:
    FileNotFoundError: it is not a directory with a converted network.
    ValueError: it is damaged, or holds something else than `name`.
  """
  if not directory:
    raise FileNotFoundError("No directory is named.")
  config, params = weights.load_part(directory)
  if config.get("name") != name:
    raise ValueError(
      f"{directory} holds {config.get('name', 'something')!r}, not {name}:"
      f" convert the official file with --family={name} into a new directory."
    )
  return config, params, provenance(pathlib.Path(directory))


def provenance(directory: pathlib.Path) -> Config:
  """Which official file a directory was converted from; {} if none says so."""
  file = directory / weights.PROVENANCE
  remedy = "convert the official file again"
  return weights.load_json(file, remedy) if file.is_file() else {}


def fitted(found: Mapping[str, Any], wanted: Any, where: str) -> Params:
  """A tree as float32 arrays on the device, if it has the shapes of `wanted`.

  Raises:
    ValueError: names the first tensor that is missing, extra or misshapen.
  """
  weights.check(weights.flatten(found), weights.flatten(wanted), where)
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), dict(found))


def digest(params: Params) -> str:
  """SHA-256 of names, shapes and float32 values, in the order of the names."""
  found = hashlib.sha256()
  for name, value in sorted(weights.flatten(params).items()):
    array = np.asarray(value, "<f4")
    found.update(f"{name} {array.shape}\n".encode() + array.tobytes())
  return found.hexdigest()


def whole(function: Callable[..., Any]) -> Callable[..., Any]:
  """jit with whole float32 products: a GPU's shortened ones would show."""

  @functools.wraps(function)
  def precise(*args: Any) -> Any:
    with jax.default_matmul_precision("highest"):
      return function(*args)

  return jax.jit(precise)


def of_images(
  function: Callable[..., Any], params: Params
) -> Callable[..., Any]:
  """function(params, *images) for uint8 images [b h w 3]; refuses others."""
  run = whole(function)

  def measure(*images: Array) -> Any:
    for x in images:
      if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(
          "Features are measured on uint8 images [b h w 3]; these are"
          f" {x.dtype} {list(x.shape)}."
        )
    return run(params, *images)

  return measure
