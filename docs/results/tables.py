"""Turns the rows of a sweep into a Markdown table, a plot and a picture.

  python docs/results/tables.py steps
  python docs/results/tables.py steps --columns=sampler.steps,fd
  python docs/results/tables.py steps --write=README.md
  python docs/results/tables.py steps --plot=fd.png --x=sampler.steps --y=fd
  python docs/results/tables.py steps --plot=fd.png --x=a,b --y=fd,recall
  python docs/results/tables.py systems --pictures=systems.png \\
    --x=sampler.steps --by=system

A row is what launch/sweep.py leaves in docs/results/<sweep>/<point>.json. Its
overrides, its metrics and `seconds` are the columns; `changes` are all of its
overrides in one. --write replaces what stands between `<!-- results:NAME -->`
and `<!-- /results -->`. Of several x or y the plot has a panel for each pair.
--pictures sets the first samples of all points side by side, which were drawn
from the same seeds, out of runs/<sweep>/<point>/measured.png.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

from vq_jax import pictures

Row = dict[str, Any]
KEPT = ("seconds", "changes", "point")
OCTAVES = 4.0
SHOWN = 4  # Samples of each point in --pictures.


def load_rows(folder: pathlib.Path) -> tuple[list[Row], list[str]]:
  """The rows of one sweep, flat, ordered by their overrides.

  Args:
    folder: docs/results/<sweep>.

  Returns:
    The rows, and the columns: overrides, metrics (each in the order of first
    appearance), then `seconds` and `changes`.

  Raises:
    ValueError: the folder holds no row.
  """
  records = [
    json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*.json"))
  ]
  if not records:
    raise ValueError(f"There is no row in {folder}.")
  for record in records:
    record["changes"] = _told(record["overrides"])
  varied = list(dict.fromkeys(k for r in records for k in r["overrides"]))
  measured = list(dict.fromkeys(k for r in records for k in r["metrics"]))
  records.sort(key=lambda r: [_rank(r["overrides"].get(k)) for k in varied])
  rows = [
    {**r["metrics"], **r["overrides"], **{key: r[key] for key in KEPT}}
    for r in records
  ]
  return rows, [*varied, *measured, "seconds", "changes"]


def markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
  """A table with numbers flush right; a value that a row lacks stays empty."""
  numeric = [
    all(row.get(name) is None or _is_number(row[name]) for row in rows)
    for name in columns
  ]
  lines = [columns, ["---:" if right else "---" for right in numeric]]
  lines += [[_cell(row.get(name)) for name in columns] for row in rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_block(text: str, name: str, table: str) -> str:
  """`text` with the table between the markers of `name`.

  Raises:
    ValueError: the markers are not there exactly once.
  """
  pattern = re.compile(
    rf"(<!-- results:{re.escape(name)} -->\n).*?(<!-- /results -->)", re.S
  )
  text, count = pattern.subn(lambda m: f"{m[1]}{table}\n{m[2]}", text)
  if count != 1:
    raise ValueError(
      f"Wanted one <!-- results:{name} --> ... <!-- /results -->, found "
      f"{count}."
    )
  return text


def plot(
  rows: Sequence[Row],
  path: pathlib.Path,
  xs: Sequence[str],
  ys: Sequence[str],
  by: str | None,
) -> None:
  """Writes a PNG: a panel for each of `ys` against each of `xs`.

  Raises:
    ValueError: no row has numbers in both.
  """
  pairs = [(x, y) for y in ys for x in xs]
  columns = min(max(len(xs), 2), len(pairs))
  lines = -(-len(pairs) // columns)
  figure = Figure(figsize=(5 * columns, 3.5 * lines), layout="constrained")
  FigureCanvasAgg(figure)
  panels = figure.subplots(lines, columns, squeeze=False).ravel()
  for axes, pair in zip(panels, pairs, strict=False):
    panel(axes, rows, *pair, by)
  for axes in panels[len(pairs) :]:
    axes.remove()
  if by:
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, title=by, loc="outside right center")
  figure.savefig(path, dpi=100)


def panel(
  axes: Any, rows: Sequence[Row], x: str, y: str, by: str | None
) -> None:
  """Column y against column x, with a line for each value of `by`.

  Rows that lack a number are left out. What grows by OCTAVES is shown by
  octaves, as numbers of calls, which double.

  Raises:
    ValueError: no row has numbers in both.
  """
  rows = [r for r in rows if _is_number(r.get(x)) and _is_number(r.get(y))]
  if not rows:
    raise ValueError(f"No row has numbers in both {x} and {y}.")
  for k, value in enumerate(dict.fromkeys(_cell(r.get(by)) for r in rows)):
    line = sorted((r[x], r[y]) for r in rows if _cell(r.get(by)) == value)
    style = "-" if k < 10 else "--"  # There are ten colours.
    axes.plot(
      *zip(*line, strict=True), style, marker="o", markersize=4, label=value
    )
  axes.set(xlabel=x, ylabel=y)
  for name, scale, axis in (
    (x, axes.set_xscale, axes.xaxis),
    (y, axes.set_yscale, axes.yaxis),
  ):
    least = min(r[name] for r in rows)
    if least > 0 and max(r[name] for r in rows) >= OCTAVES * least:
      scale("log", base=2)
      axis.set_major_locator(LogLocator(2, subs=(1.0, 1.5)))
      axis.set_major_formatter("{x:g}")
  axes.grid(alpha=0.3)


def montage(
  rows: Sequence[Row],
  runs: pathlib.Path,
  path: pathlib.Path,
  x: str,
  by: str | None,
) -> None:
  """Writes a PNG: a column for each value of x, a row for each value of by.

  Raises:
    ValueError: a point has no samples, or there are two for one place.
  """
  places = {(_cell(row.get(by)), _cell(row.get(x))): row for row in rows}
  if len(places) < len(rows):
    raise ValueError(f"{x} and {by} do not tell all points apart.")
  names, steps = (
    list(dict.fromkeys(column)) for column in zip(*places, strict=True)
  )
  strips = {at: _strip(runs / row["point"]) for at, row in places.items()}
  blank = np.full_like(next(iter(strips.values())), 255)
  cells = [strips.get((name, step), blank) for name in names for step in steps]
  heads = [f"{x} = {step}" for step in steps]
  page = pictures.table(np.stack(cells), names, heads, scale=1, margin=110)
  Image.fromarray(page).save(path)


def _strip(workdir: pathlib.Path) -> np.ndarray:
  """The first samples of a point, uint8 [h w 3]."""
  file = workdir / "measured.png"
  if not file.is_file():
    raise ValueError(f"{file} is missing: evaluate that point again.")
  with Image.open(file) as picture:
    page = np.asarray(picture.convert("RGB"))
  side = (
    page.shape[1] - pictures.GAP
  ) // pictures.SHEET  # And the gap behind it.
  return page[: side + pictures.GAP, : SHOWN * side + pictures.GAP]


def _told(overrides: Row) -> str:
  """Overrides on one line, without the sections that they are in."""
  return ", ".join(
    f"{key.rpartition('.')[2]} = {_cell(value)}"
    for key, value in overrides.items()
  )


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _rank(value: Any) -> tuple[int, float, str]:
  """Sorts missing values first, then numbers, then the text of the rest."""
  if value is None:
    return (0, 0.0, "")
  return (1, value, "") if _is_number(value) else (2, 0.0, str(value))


def _cell(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, list):
    return ", ".join(map(_cell, value)) or "none"
  text = f"{value:.4g}" if isinstance(value, float) else str(value)
  return text.replace("|", "\\|")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The command line; `--help` lists it."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("name", help="the sweep: a folder below --results")
  parser.add_argument(
    "--results", type=pathlib.Path, default=pathlib.Path(__file__).parent
  )
  parser.add_argument("--columns", help="comma-separated (default: all)")
  parser.add_argument("--sort", help="column that orders the rows")
  parser.add_argument("--write", type=pathlib.Path, help="file with markers")
  parser.add_argument("--plot", type=pathlib.Path, help="PNG to write")
  parser.add_argument("--pictures", type=pathlib.Path, help="PNG to write")
  parser.add_argument(
    "--workdirs", type=pathlib.Path, help="of --pictures; default: runs/NAME"
  )
  parser.add_argument("--x", help="columns a,b of the plot; one of the picture")
  parser.add_argument("--y", help="columns a,b of the plot")
  parser.add_argument("--by", help="one line of the plot for each value")
  args = parser.parse_args(argv)
  if args.plot and not (args.x and args.y):
    parser.error("--plot needs --x and --y")
  if args.pictures and not args.x:
    parser.error("--pictures needs --x")
  args.workdirs = args.workdirs or pathlib.Path("runs") / args.name
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; writes it and the plot where asked to."""
  args = parse(argv)
  rows, columns = load_rows(args.results / args.name)
  wanted = args.columns.split(",") if args.columns else columns[:-1]
  xs, ys = (axis.split(",") if axis else [] for axis in (args.x, args.y))
  for name in [*wanted, args.sort, *xs, *ys, args.by]:
    if name is not None and name not in columns:
      raise ValueError(f"No column {name!r}. Choices: {', '.join(columns)}.")
  if args.sort:
    rows.sort(key=lambda row: _rank(row.get(args.sort)))
  table = markdown(rows, wanted)
  print(table)
  if args.write:
    text = args.write.read_text(encoding="utf-8")
    text = replace_block(text, args.name, table)
    args.write.write_text(text, encoding="utf-8")
  if args.plot:
    plot(rows, args.plot, xs, ys, args.by)
  if args.pictures:
    montage(rows, args.workdirs, args.pictures, args.x, args.by)
  return 0


if __name__ == "__main__":
  sys.exit(main())
