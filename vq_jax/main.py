"""python -m vq_jax.main --mode=MODE --config=FILE --workdir=DIRECTORY

train     from the config to a trained run directory; the same command resumes
tokenize  a trained tokenizer's tokens of its dataset, in <workdir>/tokens
sample    PNGs, a grid and a film strip of a trained prior
edit      variants of --image where --mask is white, or where it is transparent
evaluate  metrics.json of a trained run, or of --images beside a --config
benchmark times of network, sampler and reading of data, in benchmark.json
statistics what is in the data, and which files are broken, in statistics.json

python -m vq_jax.main --mode=convert --family=NAME --src=FILE --dst=DIRECTORY

an official checkpoint, for --config.init_from=DIRECTORY
"""

import logging as std_logging
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from vq_jax import plugins, weights
from vq_jax.train import (
  actions,
  benchmark,
  checkpoint,
  edit,
  images,
  imported,
  layout,
  loop,
  statistics,
  tokenize,
)


def evaluate(config: dict, workdir: pathlib.Path, mesh: Any) -> None:
  """--mode=evaluate: of a run, or of images from anywhere."""
  if _IMAGES.value:
    images.evaluate(config, workdir, pathlib.Path(_IMAGES.value))
  else:
    actions.evaluate(config, workdir, mesh)


def edit_image(config: dict, workdir: pathlib.Path, mesh: Any) -> None:
  """--mode=edit, which has flags of its own."""
  edit.edit(
    config,
    workdir,
    mesh,
    image=_IMAGE.value,
    mask=_MASK.value,
    caption=_CAPTION.value,
    label=_LABEL.value,
  )


MODES: dict[str, Callable[..., None]] = {
  "train": actions.train,
  "tokenize": tokenize.tokenize,
  "sample": actions.sample,
  "edit": edit_image,
  "evaluate": evaluate,
  "benchmark": benchmark.benchmark,
  "statistics": statistics.statistics,
}
# What a user can cause and mend; anything else is a bug with its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError)
STOPPED = 143  # 128 + SIGTERM, as shells report it.

_MODE = flags.DEFINE_enum("mode", "train", [*MODES, "convert"], "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Print config, parameters, mesh and sharding, and exit."
)
_TRACEBACK = flags.DEFINE_bool(
  "traceback", False, "Show where in the code a refused input was noticed."
)
_IMAGE = flags.DEFINE_string("image", None, "Of --mode=edit: the picture.")
_IMAGES = flags.DEFINE_string(
  "images",
  None,
  "Of --mode=evaluate: a folder or an .npz of images, in place of a run.",
)
_MASK = flags.DEFINE_string(
  "mask", None, "Of --mode=edit: a picture that is white where to paint."
)
_CAPTION = flags.DEFINE_string(
  "caption", None, "Of --mode=edit: what the picture shall show."
)
_LABEL = flags.DEFINE_integer(
  "label", None, "Of --mode=edit: the class the picture shall show."
)
_FAMILY = flags.DEFINE_string(
  "family", None, "Of --mode=convert: whose checkpoint it is."
)
_SRC = flags.DEFINE_string("src", None, "Of --mode=convert: the file.")
_DST = flags.DEFINE_string("dst", None, "Of --mode=convert: a new directory.")
_OPTION = flags.DEFINE_multi_string(
  "option", [], "Of --mode=convert: KEY=VALUE that the file does not tell."
)
_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Config file; a key is set with --config.section.key=value. Without it, a"
  " run directory's own config is used.",
  lock_config=True,
)


def main(argv: Sequence[str]) -> None:
  """Runs one mode; a user's mistake ends in one sentence and exit code 1."""
  if len(argv) > 1:
    refuse(f"Flags start with --: {' '.join(argv[1:])!r} was not understood.")
  if not _WORKDIR.value and _MODE.value != "convert":
    refuse("--workdir=DIRECTORY says where the run lives; it is required.")
  std_logging.getLogger("jax").setLevel(std_logging.ERROR)
  logging.set_verbosity(logging.ERROR)  # Orbax tells of every file.
  begin = time.perf_counter()
  try:
    if _MODE.value == "convert":
      imported.convert(_FAMILY.value, _SRC.value, _DST.value, _OPTION.value)
      return
    workdir = pathlib.Path(_WORKDIR.value).absolute()
    config = resolve_config(workdir)
    mesh = plugins.call(layout.make_mesh, config["mesh"], "config.mesh")
    if _DRY_RUN.value:
      actions.describe(config, mesh)
      return
    MODES[_MODE.value](config, workdir, mesh)
  except loop.Stopped as stopped:
    print(f"{stopped} Run the same command to go on.", file=sys.stderr)
    sys.exit(STOPPED)
  except USER_ERRORS as error:
    if _TRACEBACK.value:
      raise
    refuse(sentence(error))
  print(f"{_MODE.value}: done in {time.perf_counter() - begin:.0f} s")


def resolve_config(workdir: pathlib.Path) -> dict[str, Any]:
  """--config with its overrides, or else the config of the run directory."""
  try:
    config = _CONFIG.value
  except ImportError as error:
    raise ValueError(
      f"--config: {error}; run from the directory that holds configs/."
    ) from error
  if config is None:
    return checkpoint.read_config(workdir)
  # Through JSON: what is stored and what is used must be the same.
  return weights.read_json(config.to_json())


def warning(message: Warning | str, *_: object, **__: object) -> str:
  """One line, without the place in the code."""
  return f"warning: {message}\n"


def refuse(message: str) -> None:
  """One sentence on stderr, and exit code 1."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)


def sentence(error: BaseException) -> str:
  """An exception as one line for a person."""
  if isinstance(error, OSError) and error.strerror:
    place = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{place}."
  # Config flags wrap a KeyError, which would show its message quoted.
  while isinstance(error, (AttributeError, KeyError)):
    error = error.args[0]
  return " ".join(str(error).split())


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Flags as absl reads them; an unknown config key is one sentence."""
  try:
    return app.parse_flags_with_usage(list(argv))
  except (AttributeError, KeyError) as error:
    refuse(f"The config has no such key: {sentence(error)}")
  except (OSError, ValueError) as error:
    refuse(f"--config: {sentence(error)}")
  raise AssertionError("unreachable")


def entry() -> None:
  """Console entry point."""
  warnings.formatwarning = warning
  # Every run profits from what an earlier one compiled.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
  entry()
