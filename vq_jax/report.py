"""python -m vq_jax.report DIRECTORY [PRIOR]: a page on a tokenizer and a prior.

Reads only files that the modes of `vq_jax.main` wrote into DIRECTORY/tokenizer
and DIRECTORY/PRIOR, which is "prior" unless said; writes curves, metrics.json
and index.html beside them.
"""

import html
import json
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PARTS = ("tokenizer", "prior")
# Curves of each part: (title, names of metrics).
CURVES = {
  "tokenizer": (
    ("reconstruction loss", ("train/reconstruction",)),
    ("PSNR, dB", ("validation/psnr_db",)),
    ("codebook in use", ("train/codebook_usage", "validation/codebook_usage")),
  ),
  "prior": (
    (
      "bits per token",
      (
        "train/bits_per_token",
        "validation/bits_per_token",
        "validation/unigram_bits_per_token",
      ),
    ),
    ("gradient norm", ("train/grad_norm",)),
    ("embeddings", ("train/code_norm", "train/code_distance")),
  ),
}
# What a prior of embeddings says at each level of noise; NN is 100 t.
AGAINST_TIME = re.compile(r"validation/(\w+)_t(\d\d)")
PICTURES = (
  (
    "tokenizer/pictures/reconstructions.png",
    "Reconstructions",
    "Glyphs that training never saw, each above its reconstruction.",
  ),
  (
    "prior/samples.png",
    "Samples",
    "Drawn from noise: every picture is new.",
  ),
  (
    "prior/guidance.png",
    "Guidance",
    "Each row asks for one class from the same noise; guidance grows to the"
    " right.",
  ),
  (
    "prior/film.png",
    "Denoising",
    "Each row is one image; from left to right its tokens are revealed.",
  ),
  (
    "prior/measured.png",
    "Samples that were measured",
    "The first of those that the numbers below are of.",
  ),
  (
    "prior/neighbours.png",
    "Nearest training pictures",
    "Each row is a sample and the training pictures nearest to it, with their"
    " distances.",
  ),
  (
    "prior/pictures/codes.png",
    "Embeddings",
    "How far each is from each other: white is far, and a black square would"
    " be embeddings that have collapsed.",
  ),
  ("tokenizer-curves.png", "Tokenizer training", ""),
  ("prior-curves.png", "Prior training", ""),
  (
    "prior-noise.png",
    "Noise",
    "Nats that are missing at each time. A flat piece, at zero or at the top,"
    " is noise that teaches nothing.",
  ),
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; border: 1px solid #ddd; }
table { border-collapse: collapse; margin-right: 3rem; }
td { padding: .1rem 1rem .1rem 0; border-bottom: 1px solid #eee; }
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
  path.unlink(missing_ok=True)  # Of an earlier page, perhaps of another prior.
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


def draw_part(root: pathlib.Path, part: str, folder: str) -> None:
  """<part>-curves.png and <part>-noise.png, from <folder>/metrics.jsonl."""
  series = read_rows(root / folder / "metrics.jsonl")
  charts = {
    title: {name: series.get(name, {}) for name in names}
    for title, names in CURVES[part]
  }
  draw(root / f"{part}-curves.png", charts, "updates")
  against: dict[str, dict[float, float]] = {}
  for name, line in series.items():
    if found := AGAINST_TIME.fullmatch(name):
      last = line[max(line)]
      against.setdefault(found[1], {})[int(found[2]) / 100] = last
  draw(root / f"{part}-noise.png", {"nats per token": against}, "t")


def table(title: str, numbers: Mapping[str, Any]) -> str:
  """A dict as an HTML table."""
  rows = "".join(
    f"<tr><td>{html.escape(name)}</td><td>"
    f"{f'{v:.4g}' if isinstance(v, float) else html.escape(str(v))}</td></tr>"
    for name, v in numbers.items()
  )
  return f"<div><h3>{title}</h3><table>{rows}</table></div>"


def write(root: pathlib.Path, prior: str = "prior") -> pathlib.Path:
  """Writes the page and returns its path; `prior` is the directory of that.

  Raises:
    FileNotFoundError: a part has not been trained and evaluated.
  """
  numbers = {}
  for part, folder in zip(PARTS, ("tokenizer", prior), strict=True):
    for name in ("metrics.json", "metrics.jsonl"):
      if not (root / folder / name).is_file():
        raise FileNotFoundError(
          f"{root / folder} has no {name}: train and evaluate it first."
        )
    numbers[part] = json.loads((root / folder / "metrics.json").read_text())
    draw_part(root, part, folder)
  (root / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n")
  shown = [
    (re.sub("^prior/", f"{prior}/", path), title, text)
    for path, title, text in PICTURES
  ]
  figures = "".join(
    f"<h2>{title}</h2><p>{text}</p><img src='{html.escape(path)}'"
    f" alt='{title}'>"
    for path, title, text in shown
    if (root / path).is_file()
  )
  tables = "".join(table(part, numbers[part]) for part in PARTS)
  page = (
    "<!doctype html><html lang='en'><meta charset='utf-8'>"
    f"<title>vq_jax: {html.escape(root.name)}</title><style>{STYLE}</style>"
    f"<h1>{html.escape(root.name)}</h1>{figures}<h2>Numbers</h2>"
    f"<div class='tables'>{tables}</div></html>\n"
  )
  path = root / "index.html"
  path.write_text(page, encoding="utf-8")
  return path


def main(argv: list[str]) -> int:
  """Command line: one directory, and which prior in it."""
  if len(argv) not in (2, 3):
    print(__doc__.splitlines()[0], file=sys.stderr)
    return 1
  try:
    print(write(pathlib.Path(argv[1]).absolute(), *argv[2:]))
  except FileNotFoundError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
