"""Parameter trees as safetensors files, with strict key accounting.

A file holds arrays and one string of metadata, nothing that can be executed.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vq_jax.types import Params

SEPARATOR = "/"
PROVENANCE = "provenance.json"  # Beside a converted part: where it is from.


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"a": {"b": x}} -> {"a/b": x}."""
  flat = {}
  for key, value in tree.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping):
      flat.update(flatten(value, name + SEPARATOR))
    else:
      flat[name] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{"a/b": x} -> {"a": {"b": x}}."""
  tree: dict[str, Any] = {}
  for name, value in flat.items():
    *parents, leaf = name.split(SEPARATOR)
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


def save(path: str | os.PathLike, tree: Params, metadata: str = "") -> None:
  """Writes the tree; the file appears whole or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + ".part")
  safetensors.numpy.save_file(_arrays(tree), part, {"vq_jax": metadata})
  os.replace(part, path)


def to_bytes(tree: Params, metadata: str = "") -> bytes:
  """What `save` would write."""
  return safetensors.numpy.save(_arrays(tree), {"vq_jax": metadata})


def _arrays(tree: Params) -> dict[str, np.ndarray]:
  return {k: np.asarray(v, order="C") for k, v in flatten(tree).items()}


def load(path: str | os.PathLike) -> tuple[dict[str, Any], str]:
  """The tree of numpy arrays and its metadata.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not a whole safetensors file.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no weights file {path}.")
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
      metadata = (file.metadata() or {}).get("vq_jax", "")
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} is not a whole safetensors file ({error}); write it again."
    ) from error
  return unflatten(flat), metadata


def save_part(
  directory: str | os.PathLike, config: Mapping[str, Any], params: Params
) -> None:
  """A trained part by itself: config.json and params.safetensors."""
  directory = pathlib.Path(directory)
  save(directory / "params.safetensors", params)
  write_json(directory / "config.json", config)


class Section(dict):
  """A config read back: a missing key is the user's to know, in a sentence."""

  def __missing__(self, key: str) -> Any:
    raise ValueError(
      f"The config lacks the key {key!r}; it has {', '.join(sorted(self))}."
    )


def read_json(text: str) -> dict[str, Any]:
  """JSON whose objects are `Section`s; ValueError if it is none."""
  return json.loads(text, object_hook=Section)


def load_json(path: pathlib.Path, remedy: str) -> dict[str, Any]:
  """The content of a file; ValueError, with what to do, if it is no JSON."""
  try:
    return read_json(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is damaged ({error}); {remedy}.") from error


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes the file whole or not at all: a full disk costs no old one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + ".part")
  part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
  os.replace(part, path)


def load_part(directory: str | os.PathLike) -> tuple[dict, dict]:
  """(config, params) that `save_part` wrote.

  Raises:
    FileNotFoundError: one of the two files is missing.
    ValueError: one of them is damaged.
  """
  file = pathlib.Path(directory) / "config.json"
  if not file.is_file():
    raise FileNotFoundError(f"{directory} holds no exported part: no {file}.")
  params, _ = load(file.with_name("params.safetensors"))
  return load_json(file, "export that part again"), params


def check(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str):
  """Compares shapes, tensor by tensor.

  Args:
    found: flat names -> anything with a shape, as stored.
    wanted: flat names -> anything with a shape, as the config needs.
    where: what is being read, for the message.

  Raises:
    ValueError: names the first tensor that is missing, extra or misshapen.
  """
  for name in sorted(set(found) | set(wanted)):
    if name not in found:
      what = f"lacks the tensor {name!r}"
    elif name not in wanted:
      what = f"has a tensor {name!r} that this config does not use"
    elif tuple(found[name].shape) != tuple(wanted[name].shape):
      what = (
        f"has {name!r} of shape {tuple(found[name].shape)}, this config needs"
        f" {tuple(wanted[name].shape)}"
      )
    else:
      continue
    raise ValueError(f"{where} belongs to another config: it {what}.")
