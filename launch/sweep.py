"""Runs one command per point of a sweep and keeps one JSON row of each.

The points stand beside the config they vary:

  def sweep(add):
    for steps in (8, 16, 32, 64):
      add({"sampler.steps": steps})

  python launch/sweep.py --config=configs/x.py --name=size --mode=train,evaluate
      prints the commands; with --run it runs them, one after another.
  ... --name=steps --mode=evaluate --base=runs/x
      varies how one trained run is sampled: every point is that run, linked.

A config with a FIGURE beside its sweep, dict(x=(...), y=(...), by=...) of
columns, has table.md and plot.png written beside its rows once all are there.

Restartable: a point that has its row is skipped, one that was interrupted
resumes in its own workdir. For array jobs, --point=K runs only the K-th. Rows
of several configs become one table if each has its own --label=system=x. What
follows a lone `--` goes to every command.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A config may import another one, as configs.NAME.
sys.path.insert(0, str(ROOT))

from vq_jax.revision import revision  # noqa: E402

Overrides = dict[str, Any]
RUN_PARTS = ("config.json", "checkpoints", "tokenizer", "text", "reference")


def load_points(config: str) -> list[Overrides]:
  """What the config file's `sweep(add)` adds, in its order.

  Args:
    config: a path such as configs/x.py, or configs/x.py:smoke.

  Returns:
    One {dotted key: value} a point.

  Raises:
    ValueError: the file has no `sweep`, or two points have the same name.
  """
  path = config.partition(":")[0]
  module = load_module(path)
  if not hasattr(module, "sweep"):
    raise ValueError(f"{path} has no sweep(add) beside its get_config.")
  points: list[Overrides] = []
  module.sweep(lambda overrides: points.append(dict(overrides)))
  names = [point_name(point) for point in points]
  twins = sorted({name for name in names if names.count(name) > 1})
  if twins:
    raise ValueError(f"Two points of {path} share a name: {', '.join(twins)}.")
  return points


def load_module(path: str | pathlib.Path) -> Any:
  """Runs a Python file that is in no package; ValueError if it is none."""
  spec = importlib.util.spec_from_file_location("sweep_config", path)
  if spec is None or not pathlib.Path(path).is_file():
    raise ValueError(f"{path} is no Python file.")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def point_name(overrides: Mapping[str, Any]) -> str:
  """A file name that says what differs: "prior.name=lcmd,sampler.steps=8".

  The order of the keys does not matter; characters that a file system may
  refuse become "-".
  """
  pairs = (f"{key}={value}" for key, value in sorted(overrides.items()))
  return re.sub(r"[^\w.,=+-]+", "-", ",".join(pairs)) or "base"


def commands_of(
  overrides: Mapping[str, Any], workdir: pathlib.Path, args: argparse.Namespace
) -> list[list[str]]:
  """The words of the commands that compute one point, one a mode."""
  return [
    [
      *shlex.split(args.command),
      f"--mode={mode}",
      f"--config={args.config}",
      *(f"--config.{key}={value}" for key, value in overrides.items()),
      f"--workdir={workdir}",
      *args.extra,
    ]
    for mode in args.mode.split(",")
  ]


def link_base(base: pathlib.Path, workdir: pathlib.Path) -> None:
  """Makes the workdir a view of a trained run, with metrics of its own."""
  workdir.mkdir(parents=True, exist_ok=True)
  for part in RUN_PARTS:
    link = workdir / part
    if (base / part).exists() and not link.is_symlink():
      link.symlink_to((base / part).resolve())


def run_point(
  overrides: Overrides, args: argparse.Namespace, row_path: pathlib.Path
) -> str | None:
  """Runs one point and writes its row; returns what went wrong, if anything."""
  name = row_path.stem
  workdir = args.workdirs / name
  metrics_path = workdir / "metrics.json"
  metrics_path.unlink(missing_ok=True)  # Else an old run could speak for this.
  commit = revision()
  if args.base:
    link_base(args.base, workdir)
  start = time.monotonic()
  for command in commands_of(overrides, workdir, args):
    print(f"{name}: {shlex.join(command)}", flush=True)
    if code := subprocess.run(command, check=False).returncode:
      return f"exit code {code}"
  seconds = time.monotonic() - start
  try:
    metrics = read_metrics(metrics_path)
  except (OSError, ValueError) as error:
    return f"{metrics_path}: {error}"
  row = {
    "sweep": args.name,
    "point": name,
    **origin(args),
    "overrides": args.label | overrides,
    "metrics": metrics,
    "seconds": round(seconds, 3),
    "revision": commit,
  }
  write_row(row_path, row)
  return None


def read_metrics(path: pathlib.Path) -> dict[str, float | str]:
  """What the run left; ValueError if that is not a flat dict of values."""
  metrics = json.loads(path.read_text(encoding="utf-8"))
  if not isinstance(metrics, dict) or not all(
    isinstance(value, int | float | str) for value in metrics.values()
  ):
    raise ValueError("not a flat dict of values.")
  return metrics


def origin(args: argparse.Namespace) -> dict[str, Any]:
  """What all points of one sweep have in common."""
  return {"mode": args.mode, "config": args.config, "arguments": args.extra}


def conflict(args: argparse.Namespace, row_path: pathlib.Path) -> str | None:
  """Why the row that is there is not of this sweep, if it is not."""
  row = json.loads(row_path.read_text(encoding="utf-8"))
  for key, value in origin(args).items():
    if row[key] != value:
      return f"{row_path} is there, of {key} {row[key]!r} and not {value!r}"
  print(f"{row_path}: done before.")
  return None


def write_row(path: pathlib.Path, row: Mapping[str, Any]) -> None:
  """Writes the row whole or not at all: its existence means it is done."""
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_suffix(f".{os.getpid()}.part")
  unfinished.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
  unfinished.replace(path)


def draw_figure(points: Sequence[Overrides], args: argparse.Namespace) -> None:
  """table.md and plot.png, if the config has a FIGURE and all rows exist."""
  figure = getattr(load_module(args.config.partition(":")[0]), "FIGURE", None)
  folder = args.results / args.name
  names = [point_name(args.label | point) for point in points]
  if not figure or not all((folder / f"{n}.json").exists() for n in names):
    return
  tables = load_module(ROOT / "docs" / "results" / "tables.py")
  rows, _ = tables.load_rows(folder)
  by = figure.get("by")
  columns = [*figure["x"], *([by] if by else []), *figure["y"]]
  table = tables.markdown(rows, columns)
  (folder / "table.md").write_text(table + "\n", encoding="utf-8")
  tables.plot(rows, folder / "plot.png", figure["x"], figure["y"], by)
  print(f"{folder}: table.md, plot.png")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The command line; `--help` lists it."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--config", required=True, help="file with sweep(add)")
  parser.add_argument("--name", required=True, help="folder of the rows")
  parser.add_argument(
    "--mode", required=True, help="of vq_jax.main: one or a,b"
  )
  parser.add_argument("--base", type=pathlib.Path, help="a trained run to vary")
  parser.add_argument(
    "--label",
    type=lambda pair: dict([pair.split("=", 1)]),
    default={},
    help="KEY=VALUE that tells these rows from others of that name",
  )
  parser.add_argument("--run", action="store_true", help="run, not only print")
  parser.add_argument("--point", type=int, help="only this one, counted from 0")
  parser.add_argument(
    "--results", type=pathlib.Path, default=pathlib.Path("docs/results")
  )
  parser.add_argument(
    "--workdirs", type=pathlib.Path, help="default: runs/NAME"
  )
  parser.add_argument(
    "--command",
    default=shlex.join([sys.executable, "-m", "vq_jax.main"]),
    help="what computes a point (default: %(default)s)",
  )
  parser.add_argument("extra", nargs="*", help="after --: to every command")
  args = parser.parse_args(argv)
  args.workdirs = args.workdirs or pathlib.Path("runs") / args.name
  return args


def chosen(points: list[Overrides], index: int | None) -> list[Overrides]:
  """All points, or the one of that index; ValueError if there is none."""
  if index is None:
    return points
  if not 0 <= index < len(points):
    raise ValueError(f"--point={index}: there are 0 to {len(points) - 1}.")
  return [points[index]]


def main(argv: Sequence[str] | None = None) -> int:
  """Prints or runs the sweep; the exit code is 1 if a point failed."""
  args = parse(argv)
  points, failures = load_points(args.config), {}
  for overrides in chosen(points, args.point):
    name = point_name(args.label | overrides)
    row_path = args.results / args.name / f"{name}.json"
    if not args.run:
      for command in commands_of(overrides, args.workdirs / name, args):
        print(shlex.join(command))
      continue
    step = conflict if row_path.exists() else partial(run_point, overrides)
    if failure := step(args, row_path):
      failures[name] = failure
  for name, failure in failures.items():
    print(f"FAILED {name}: {failure}", file=sys.stderr)
  if args.run and not failures:
    draw_figure(points, args)
  return 1 if failures else 0


if __name__ == "__main__":
  sys.exit(main())
