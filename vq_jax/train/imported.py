"""Weights from elsewhere: official checkpoints, parts that were exported."""

import ast
import hashlib
import pathlib
from collections.abc import Sequence

from vq_jax import plugins, weights
from vq_jax.types import Params

PROVENANCE = weights.PROVENANCE


def convert(
  family: str | None,
  src: str | None,
  dst: str | None,
  options: Sequence[str] = (),
) -> None:
  """Writes dst/config.json, params.safetensors and provenance.json.

  A tokenizer becomes an exported part, which `pipeline.load_tokenizer` reads;
  a prior has the sections `net` and `prior`. `config.init_from=dst` starts a
  run from either. A text tower's params.safetensors is for config.text.weights;
  a network that measures goes into a directory of config.evaluate.weights.

  Args:
    family: a file of vq_jax/convert, which tells the layout.
    src: the official file.
    dst: a directory that is not there yet.
    options: "key=value" each, of the family's `load`.

  Raises:
    ValueError: a flag is missing or wrong, or the file is not of that family.
    OSError: a file cannot be read or written.
  """
  for flag, value in {"family": family, "src": src, "dst": dst}.items():
    if not value:
      families = ", ".join(plugins.available("convert"))
      raise ValueError(
        f"--mode=convert needs --{flag}; see --help. Families: {families}."
      )
  target = pathlib.Path(dst)
  if (target / "config.json").exists():
    raise ValueError(f"{dst} holds something already; choose another --dst.")
  module = plugins.resolve("convert", family)
  given = dict(map(_option, options))
  # What a transformer is told beside its tensors, or else a tokenizer.
  takes = getattr(module, "transformer", module.load)
  plugins.check(takes, given, f"--option of {family}", ("path", "state"))
  try:
    config, params = module.load(src, **given)
  except ModuleNotFoundError as error:
    raise ValueError(str(error)) from error
  if "tokenizer" in config:
    config, params = config["tokenizer"], params["tokenizer"]
  source = {
    "family": family,
    **_fingerprint(pathlib.Path(src)),
    "options": {key: _recorded(value) for key, value in given.items()},
  }
  weights.write_json(target / PROVENANCE, source)
  weights.save_part(target, config, params)
  count = sum(leaf.size for leaf in weights.flatten(params).values())
  print(f"{dst}: {count:,} parameters of {src}.")


def exported(directory: pathlib.Path) -> Params | None:
  """The weights of an exported or converted part; None for anything else."""
  if not (directory / "params.safetensors").is_file():
    return None
  return weights.load_part(directory)[1]


def _fingerprint(path: pathlib.Path) -> dict[str, str]:
  """Name and SHA-256 of a file."""
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return {"file": path.name, "sha256": digest}


def _recorded(value: object) -> object:
  """An option as provenance.json tells it: of a file its fingerprint too."""
  path = pathlib.Path(value) if isinstance(value, str) else None
  return _fingerprint(path) if path and path.is_file() else value


def _option(text: str) -> tuple[str, object]:
  """ "grid=(16, 16)" -> ("grid", (16, 16)); what is no literal is a word."""
  key, equals, value = text.partition("=")
  if not equals:
    raise ValueError(f"--option is KEY=VALUE, not {text!r}.")
  try:
    return key, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return key, value
