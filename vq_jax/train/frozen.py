"""Text encoders that are not trained: their files live with the run."""

import copy
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from vq_jax import plugins, system
from vq_jax.types import Params

Config = Mapping[str, Any]


def load(parts: system.System) -> Params:
  """The weights that training does not change: {"text": ...} or nothing."""
  if parts.text is None or not system.frozen_text(parts.text):
    return {}
  return {"text": system.module_of(parts.text).load(parts.text)}


def adopt(config: Config, workdir: pathlib.Path) -> None:
  """Copies the encoder's files in, so that the run directory is enough."""
  for file in _files(config):
    target = _copy(file, workdir)
    if not target.exists():
      target.parent.mkdir(parents=True, exist_ok=True)
      part = target.with_name(f".{target.name}.part")
      shutil.copyfile(file, part)
      part.rename(target)


def local_paths(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """The config with the run's own copies of those files, where it has them."""
  copies = {file: _copy(file, workdir) for file in _files(config)}
  return _renamed(
    config, {file: str(own) for file, own in copies.items() if own.exists()}
  )


def bare(config: Config) -> dict[str, Any]:
  """The config with no more than the names of those files: copies are alike."""
  return _renamed(
    config, {file: pathlib.Path(file).name for file in _files(config)}
  )


def _renamed(config: Config, names: Mapping[str, str]) -> dict[str, Any]:
  config = copy.copy(config)
  if "text" in config:
    section = config["text"].items()
    config["text"] = {key: names.get(value, value) for key, value in section}
  return config


def _files(config: Config) -> list[str]:
  section = config.get("text", {})
  if "name" not in section:
    return []
  module = plugins.resolve("text", section["name"])
  return [section[key] for key in module.FILES if key in section]


def _copy(file: str, workdir: pathlib.Path) -> pathlib.Path:
  return workdir / "text" / pathlib.Path(file).name
