"""Rebuilds the sheets and glyphs.json. Needs `npm` and the network.

  python -m vq_jax.data.emoji.build

Nothing else in vq_jax downloads anything: the result is committed.
"""

import functools
import io
import json
import math
import pathlib
import subprocess
import tarfile
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vq_jax.data import emoji

PACKAGES = {
  "noto": "emoji-datasource-google@16.0.0",
  "twemoji": "emoji-datasource-twitter@16.0.0",
  "fluent": "@lobehub/fluent-emoji-3d@1.1.0",
}
FOLDERS = {"noto": "img/google/64", "twemoji": "img/twitter/64"}

# The npm package claims MIT for all it holds, but Microsoft's MIT release has
# no flags of countries, no families or couples, and no pinata.
UNRELEASED_GROUPS = ("country-flag", "subdivision-flag", "family")
UNRELEASED_GLYPHS = ("1f46a", "1fa85")

# Lossy WebP halves the resolution of colour, which caps it at 32 dB here.
# Rounding to multiples of 5 (white and black stay exact, no value moves by more
# than 2) and lossless WebP give 48 dB at the same size.
LEVEL_STEP = 5
LONGEST_NAME = 70  # Bytes; a caption with its style then fits in 80.

Glyph = Mapping[str, Any]  # One entry of emoji.json.
Files = Mapping[str, bytes]


def fetch(package: str) -> Files:
  """The files of an npm package by path. CalledProcessError if npm fails."""
  with tempfile.TemporaryDirectory() as folder:
    command = ["npm", "pack", "--silent", package]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    [archive] = pathlib.Path(folder).glob("*.tgz")
    with tarfile.open(archive) as tar:
      wanted = (m for m in tar if m.isfile() and "/sheets" not in m.name)
      return {
        member.name.removeprefix("package/"): tar.extractfile(member).read()
        for member in wanted
      }


def on_white(data: bytes) -> np.ndarray:
  """An encoded picture, square or nearly so -> uint8 [64 64 3] on white."""
  picture = Image.open(io.BytesIO(data)).convert("RGBA")
  side = max(picture.size)
  canvas = Image.new("RGBA", (side, side), "white")
  corner = ((side - picture.width) // 2, (side - picture.height) // 2)
  canvas.alpha_composite(picture, corner)
  size = (emoji.CELL, emoji.CELL)
  return np.asarray(canvas.convert("RGB").resize(size, Image.Resampling.BOX))


def datasource_path(style: str, files: Files, glyph: Glyph) -> str | None:
  """Where a picture lies in an emoji-datasource package; None: it has none."""
  path = f"{FOLDERS[style]}/{glyph['image']}"
  return path if path in files else None


def fluent_path(files: Files, glyph: Glyph) -> str | None:
  """Where a picture lies in the Fluent package; None: absent or unreleased."""
  full = glyph["unified"].lower()
  if glyph["subcategory"] in UNRELEASED_GROUPS or full in UNRELEASED_GLYPHS:
    return None
  spellings = (full, glyph["non_qualified"] or full, full.replace("-fe0f", ""))
  paths = (f"assets/{spelling.lower()}.webp" for spelling in spellings)
  return next((path for path in paths if path in files), None)


def plain(text: str) -> str:
  """Lower case, without accents, ASCII."""
  text = unicodedata.normalize("NFKD", text.replace("’", "'"))
  return text.encode("ascii", "ignore").decode().lower()


def names(glyphs: Sequence[Glyph]) -> list[str]:
  """One distinct name for each glyph."""
  full = [plain(glyph["name"]) for glyph in glyphs]
  count = Counter(full)
  fits = [count[name] == 1 and len(name) <= LONGEST_NAME for name in full]
  short = [plain(glyph["short_name"]).replace("_", " ") for glyph in glyphs]
  return [f if ok else s for f, ok, s in zip(full, fits, short, strict=True)]


def draw(
  glyphs: Sequence[Glyph], files: Files, path: Callable[..., str | None]
) -> dict[int, np.ndarray]:
  """Glyph number -> picture uint8 [64 64 3], for the glyphs a style has."""
  found = {i: path(files, glyph) for i, glyph in enumerate(glyphs)}
  return {i: on_white(files[p]) for i, p in found.items() if p}


def pack(pictures: Mapping[int, np.ndarray], count: int) -> np.ndarray:
  """Cell i of the sheet, in raster order, is glyph i; white where it has none.

  Returns:
    uint8 [rows * 64, COLUMNS * 64, 3].
  """
  cell, rows = emoji.CELL, math.ceil(count / emoji.COLUMNS)
  cells = np.full((rows * emoji.COLUMNS, cell, cell, 3), 255, np.uint8)
  for i, picture in pictures.items():
    cells[i] = picture
  grid = cells.reshape(rows, emoji.COLUMNS, cell, cell, 3).swapaxes(1, 2)
  return grid.reshape(rows * cell, emoji.COLUMNS * cell, 3)


def rounded(sheet: np.ndarray) -> np.ndarray:
  """To the nearest multiple of LEVEL_STEP, which divides 255."""
  half = LEVEL_STEP // 2
  return ((sheet.astype(np.int32) + half) // LEVEL_STEP * LEVEL_STEP).astype(
    np.uint8
  )


def save(style: str, pictures: Mapping[int, np.ndarray], count: int) -> None:
  """Writes one sheet and reports its size and its distance from the source."""
  sheet = pack(pictures, count)
  kept = rounded(sheet)
  path = emoji.ROOT / "sheets" / f"{style}.webp"
  image = Image.fromarray(kept)
  image.save(path, "WEBP", lossless=True, quality=100, method=6)
  error = np.square(kept.astype(np.float64) - sheet).sum()
  values = len(pictures) * emoji.CELL**2 * 3  # Empty cells do not count.
  psnr = 10.0 * math.log10(255.0**2 * values / error)
  megabytes = path.stat().st_size / 1e6
  print(f"{style}: {len(pictures)} pictures, {megabytes:.2f} MB, {psnr:.1f} dB")


def main() -> None:
  """Downloads, composites, rounds, packs."""
  files = {style: fetch(package) for style, package in PACKAGES.items()}
  every = json.loads(files["noto"]["emoji.json"])
  glyphs = [glyph for glyph in every if glyph["category"] != "Component"]
  glyphs.sort(key=lambda glyph: glyph["sort_order"])
  paths = {
    "noto": functools.partial(datasource_path, "noto"),
    "twemoji": functools.partial(datasource_path, "twemoji"),
    "fluent": fluent_path,
  }
  pictures = {s: draw(glyphs, files[s], paths[s]) for s in emoji.STYLES}
  for style in emoji.STYLES:
    save(style, pictures[style], len(glyphs))
  rows = [
    {
      "codepoint": glyph["unified"].lower(),
      "name": name,
      "label": glyph["category"].lower(),
      "styles": [style for style in emoji.STYLES if i in pictures[style]],
    }
    for i, (glyph, name) in enumerate(zip(glyphs, names(glyphs), strict=True))
  ]
  lines = ",\n".join(json.dumps(row) for row in rows)
  (emoji.ROOT / "glyphs.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
  main()
