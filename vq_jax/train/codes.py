"""Whose codes tokens are: a prior reads those of one tokenizer alone."""

import hashlib
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from vq_jax.data import tokens

Config = Mapping[str, Any]


def adopt_tokenizer(config: Config, workdir: pathlib.Path) -> None:
  """Copies the tokenizer in, so that the run directory is enough to sample.

  Raises:
    ValueError: the tokens are now those of another tokenizer.
  """
  source = pathlib.Path(config["data"]["path"]) / "tokenizer"
  own = workdir / "tokenizer"
  if not (own / "config.json").exists():
    shutil.copytree(source, own, dirs_exist_ok=True)
  check_tokens(config, own)


def check_tokens(config: Config, own: pathlib.Path) -> None:
  """ValueError unless the tokens of config.data are those of a tokenizer.

  own: that tokenizer, as exported into the directory of a run.
  """
  path = config["data"]["path"]
  told = tokens.read_manifest(path).get("tokenizer")
  beside = digest(pathlib.Path(path) / "tokenizer")
  if told and told != beside:
    raise ValueError(
      f"The tokens in {path} are not of the tokenizer that lies beside them;"
      " tokenize again."
    )
  if digest(own) != beside:
    raise ValueError(
      f"The tokens in {path} are of another tokenizer than the one that"
      f" {own.parent} was trained with; choose another --workdir, or correct"
      " config.data.path."
    )


def digest(part: pathlib.Path) -> str:
  """SHA-256 of an exported part's weights."""
  return hashlib.sha256((part / "params.safetensors").read_bytes()).hexdigest()
