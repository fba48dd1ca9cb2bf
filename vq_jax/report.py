"""python -m vq_jax.report DIRECTORY [PRIOR]: a page that shows what is in it.

Of a run, or of what --mode=evaluate --images left, it writes report.html, and
curves beside it. Of a directory with a run "tokenizer" and another PRIOR, which
is "prior" unless said, it writes index.html on both, and metrics.json.

Reads only files that the modes of `vq_jax.main` wrote. The page shows them by
their relative paths: it opens without a server, and is copied with its folder.
"""

import html
import json
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PARTS = ("tokenizer", "prior")
# Curves of a run: (title, names of metrics); those it has not are left out.
CURVES = (
  ("reconstruction loss", ("train/reconstruction",)),
  ("PSNR, dB", ("validation/psnr_db",)),
  ("codebook in use", ("train/codebook_usage", "validation/codebook_usage")),
  (
    "bits per token",
    (
      "train/bits_per_token",
      "validation/bits_per_token",
      "validation/unigram_bits_per_token",
    ),
  ),
  ("bits per dimension", ("validation/bits_per_dim",)),
  ("accuracy", ("train/accuracy", "validation/accuracy")),
  ("gradient norm", ("train/grad_norm",)),
  ("embeddings", ("train/code_norm", "train/code_distance")),
)
# What a prior of embeddings says at each level of noise; NN is 100 t.
AGAINST_TIME = re.compile(r"validation/(\w+)_t(\d\d)")
PICTURES = (
  (
    "pictures/reconstructions.png",
    "Reconstructions",
    "Images that training never saw, each above its reconstruction.",
  ),
  (
    "samples.png",
    "Samples",
    "Drawn from noise: every picture is new.",
  ),
  (
    "pictures/samples.png",
    "Samples while training",
    "Of the last evaluation, always of the same seeds.",
  ),
  (
    "guidance.png",
    "Guidance",
    "Each row asks for one thing from the same noise; guidance grows to the"
    " right.",
  ),
  (
    "film.png",
    "Denoising",
    "Each row is one image; from left to right its tokens are revealed.",
  ),
  (
    "measured.png",
    "Samples that were measured",
    "The first of those that the numbers below are of.",
  ),
  (
    "neighbours.png",
    "Nearest training pictures",
    "Each row is a sample and the training pictures nearest to it, with their"
    " distances.",
  ),
  (
    "pictures/codes.png",
    "Embeddings",
    "How far each is from each other: white is far, and a black square would"
    " be embeddings that have collapsed.",
  ),
  ("curves.png", "Training", ""),
  (
    "noise.png",
    "Noise",
    "Nats that are missing at each time. A flat piece, at zero or at the top,"
    " is noise that teaches nothing.",
  ),
)
RUN = ("config.json", "metrics.jsonl")  # Either tells a run.
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; border: 1px solid #ddd; }
table { border-collapse: collapse; margin-right: 3rem; }
td { padding: .1rem 1rem .1rem 0; border-bottom: 1px solid #eee;
  overflow-wrap: anywhere; }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.tables { display: flex; flex-wrap: wrap; }
"""


def read_rows(path: pathlib.Path) -> dict[str, dict[int, float]]:
  """metrics.jsonl -> {name: {step: value}}.

  A step that was run twice, before and after an interruption, counts once.
  """
  series: dict[str, dict[int, float]] = {}
  for line in path.read_text().splitlines():
    row = json.loads(line)
    step = row.pop("step")
    for name, value in row.items():
      series.setdefault(name, {})[step] = value
  return series


def draw(path: pathlib.Path, charts: Mapping[str, Mapping], x: str) -> None:
  """Charts side by side: title -> name of a line -> {x: y}; empty ones not."""
  charts = {
    title: {name: line for name, line in lines.items() if line}
    for title, lines in charts.items()
  }
  charts = {title: lines for title, lines in charts.items() if lines}
  path.unlink(missing_ok=True)  # Of an earlier page.
  if not charts:
    return
  size = (4 * len(charts), 3.4)
  figure, axes = plt.subplots(1, len(charts), figsize=size, squeeze=False)
  for axis, (title, lines) in zip(axes[0], charts.items(), strict=True):
    for name, line in lines.items():
      axis.plot(*zip(*sorted(line.items()), strict=True), label=name)
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  plt.close(figure)


def draw_run(run: pathlib.Path) -> None:
  """curves.png and noise.png of a run, from its metrics.jsonl if it has one."""
  rows = run / "metrics.jsonl"
  series = read_rows(rows) if rows.is_file() else {}
  charts = {
    title: {name: series.get(name, {}) for name in names}
    for title, names in CURVES
  }
  draw(run / "curves.png", charts, "updates")
  against: dict[str, dict[float, float]] = {}
  for name, line in series.items():
    if found := AGAINST_TIME.fullmatch(name):
      last = line[max(line)]
      against.setdefault(found[1], {})[int(found[2]) / 100] = last
  draw(run / "noise.png", {"nats per token": against}, "t")


def table(title: str, numbers: Mapping[str, Any]) -> str:
  """A dict as an HTML table."""
  rows = "".join(
    f"<tr><td>{html.escape(name)}</td><td>"
    f"{f'{v:.4g}' if isinstance(v, float) else html.escape(str(v))}</td></tr>"
    for name, v in numbers.items()
  )
  return f"<div><h3>{html.escape(title)}</h3><table>{rows}</table></div>"


def figures(root: pathlib.Path, run: pathlib.Path) -> str:
  """The pictures that a run has, for a page in `root`."""
  shown = [
    (urllib.parse.quote((run / path).relative_to(root).as_posix()), *told)
    for path, *told in PICTURES
    if (run / path).is_file()
  ]
  return "".join(
    f"<h2>{title}</h2><p>{text}</p><img src='{path}' alt='{title}'>"
    for path, title, text in shown
  )


def page(
  path: pathlib.Path,
  runs: Iterable[pathlib.Path],
  numbers: Mapping[str, Mapping[str, Any]],
) -> pathlib.Path:
  """Writes the page of some runs: their pictures, then tables by title."""
  root = path.parent
  shown = []
  for run in runs:
    draw_run(run)
    shown.append(figures(root, run))
  name = html.escape(root.name)
  tables = "".join(table(title, found) for title, found in numbers.items())
  path.write_text(
    "<!doctype html><html lang='en'><meta charset='utf-8'>"
    f"<title>vq_jax: {name}</title><style>{STYLE}</style>"
    f"<h1>{name}</h1>{''.join(shown)}<h2>Numbers</h2>"
    f"<div class='tables'>{tables}</div></html>\n",
    encoding="utf-8",
  )
  return path


def write(root: pathlib.Path, prior: str = "prior") -> pathlib.Path:
  """Writes index.html of a tokenizer and a prior, and returns its path.

  Raises:
    FileNotFoundError: a part has not been trained and evaluated.
  """
  numbers, runs = {}, [root / folder for folder in ("tokenizer", prior)]
  for part, run in zip(PARTS, runs, strict=True):
    for name in ("metrics.json", "metrics.jsonl"):
      if not (run / name).is_file():
        raise FileNotFoundError(
          f"{run} has no {name}: train and evaluate it first."
        )
    numbers[part] = json.loads((run / "metrics.json").read_text())
  (root / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n")
  return page(root / "index.html", runs, numbers)


def write_run(run: pathlib.Path) -> pathlib.Path:
  """Writes report.html of one run, and returns its path.

  Numbers are the row of --mode=evaluate, or else of the last evaluation while
  training; what it ran with is beside them.
  """
  numbers, row = {}, run / "metrics.json"
  if row.is_file():
    numbers["evaluation"] = json.loads(row.read_text())
  elif (rows := run / "metrics.jsonl").is_file():
    series = read_rows(rows)
    last = {name: line[max(line)] for name, line in series.items()}
    numbers["last row while training"] = last
  if (file := run / "config.json").is_file():
    numbers["config"] = flat(json.loads(file.read_text()))
  return page(run / "report.html", [run], numbers)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"a": {"b": 1}} -> {"a.b": 1}."""
  found = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      found |= flat(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found


def is_run(directory: pathlib.Path) -> bool:
  """Whether it is one run; else it should hold a tokenizer and a prior."""
  if any((directory / name).is_file() for name in RUN):
    return True
  # `write` leaves a metrics.json beside the two, too.
  alone = not (directory / "tokenizer").exists()
  return alone and (directory / "metrics.json").is_file()


def main(argv: list[str]) -> int:
  """Command line: one directory, and which prior in it."""
  if len(argv) not in (2, 3):
    print(__doc__.splitlines()[0], file=sys.stderr)
    return 1
  root = pathlib.Path(argv[1]).absolute()
  try:
    made = write_run(root) if is_run(root) else write(root, *argv[2:])
  except FileNotFoundError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(made)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
