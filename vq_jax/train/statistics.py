"""--mode=statistics: what is in the data, and what of it cannot be read."""

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from matplotlib import figure
from PIL import Image

from vq_jax import pictures, plugins, weights
from vq_jax.data import _skipping, _transforms
from vq_jax.train.log import progress

Config = Mapping[str, Any]
SHOWN = 96  # Pictures of a contact sheet,
COLUMNS = 12  # with as many in a row,
SIDE = 64  # of so many pixels.
CHUNK = 256  # Pictures handed to the threads at a time.
PERCENTILES = {"least": 0, "median": 50, "most": 100}


def statistics(config: Config, workdir: pathlib.Path, mesh: Mesh) -> None:
  """Writes statistics.json, and statistics/<split>.png and <split>_sheet.png.

  Every picture of config.splits is decoded.

  Raises:
    ValueError: the data are tokens.
  """
  del mesh
  if "splits" not in config:
    raise ValueError(
      "--mode=statistics is about pictures: it needs the config of a tokenizer."
    )
  if jax.process_index():
    return
  folder = workdir / "statistics"
  folder.mkdir(parents=True, exist_ok=True)
  report = {}
  for split in config["splits"]:
    source = plugins.build(
      "data", "source", config["data"], "config.data", split
    )
    rows = list(progress(examined(source), len(source), f"statistics {split}"))
    classes = getattr(getattr(source, "records", None), "classes", ())
    report[split] = summary(rows, classes)
    report[split]["faults"] = list(
      getattr(getattr(source, "records", None), "faults", ())
    )
    charts(folder / f"{split}.png", report[split], rows)
    sheet(folder / f"{split}_sheet.png", source, rows)
  weights.write_json(workdir / "statistics.json", report)
  for split, found in report.items():
    print(
      f"{split}: {found['pictures']} pictures, {len(found['broken'])} cannot be"
      f" decoded, {len(found['classes'])} classes; {folder}"
    )


def examined(source: Any) -> Iterator[dict[str, Any]]:
  """For each picture, in order: size, captions, label; or broken and why."""
  look = _of_records if hasattr(source, "records") else _of_memory
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for first in range(0, len(source), CHUNK):
      numbers = range(first, min(first + CHUNK, len(source)))
      yield from pool.map(lambda i: look(source, i), numbers)


def _of_records(source: _skipping.Source, i: int) -> dict[str, Any]:
  """A picture that must be decoded to be known good."""
  try:
    record = source.records[i]
    _transforms.decode(record["image"], source.transform.size)
    return {
      "size": _transforms.stored_size(record["image"]),
      "captions": _skipping.lines(record["captions"]),
      "label": record.get("label"),
    }
  except Exception as error:  # Whatever Pillow raises.
    return {
      "broken": source.records.name(i),
      "reason": _skipping.reason(error),
    }


def _of_memory(source: Any, i: int) -> dict[str, Any]:
  """A picture that is there already."""
  example = source[i]
  h, w = example["image"].shape[:2]
  return {
    "size": (w, h),
    "captions": example.get("caption", ""),
    "label": example.get("label"),
  }


def summary(
  rows: Sequence[Mapping[str, Any]], classes: Sequence[str] = ()
) -> dict[str, Any]:
  """What `examined` yields -> numbers, as JSON can hold them.

  Args:
    rows: one for each picture.
    classes: names of the labels, where there are any.

  Returns:
    pictures: their number, broken ones included. broken: {name: reason}.
    width, height: least, median, most, in pixels. sizes: the ten commonest.
    captions: per picture, and length in characters, likewise. classes: {name:
    pictures}, all of them that are known. per_class: least, median, most.
  """
  good = [row for row in rows if "broken" not in row]
  captions = [row["captions"].split("\n") for row in good if row["captions"]]
  counts = collections.Counter(
    row["label"] for row in good if row["label"] is not None
  )
  labels = range(len(classes)) if len(classes) else sorted(counts)
  names = {
    label: classes[label] if len(classes) else str(label) for label in labels
  }
  sizes = collections.Counter("{}x{}".format(*row["size"]) for row in good)
  return {
    "pictures": len(rows),
    "broken": {r["broken"]: r["reason"] for r in rows if "broken" in r},
    "width": spread([row["size"][0] for row in good]),
    "height": spread([row["size"][1] for row in good]),
    "sizes": dict(sizes.most_common(10)),
    "without_caption": len(good) - len(captions),
    "captions_per_picture": spread([len(texts) for texts in captions]),
    "caption_length": spread([len(t) for texts in captions for t in texts]),
    "classes": {names[label]: counts[label] for label in labels},
    "per_class": spread([counts[label] for label in labels]),
  }


def spread(values: Sequence[int]) -> dict[str, float]:
  """Least, median and most; nothing of nothing."""
  if not values:
    return {}
  found = np.percentile(values, list(PERCENTILES.values()))
  return dict(zip(PERCENTILES, found.tolist(), strict=True))


def charts(
  path: pathlib.Path,
  found: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
) -> None:
  """Histograms of sizes, caption lengths and pictures per class."""
  good = [row for row in rows if "broken" not in row]
  texts = [text for row in good for text in row["captions"].split("\n") if text]
  values = {
    "shorter side, pixels": [min(row["size"]) for row in good],
    "width / height": [row["size"][0] / row["size"][1] for row in good],
    "characters of a caption": [len(text) for text in texts],
    "pictures of a class": list(found["classes"].values()),
  }
  page = figure.Figure((4 * len(values), 3.4), layout="constrained")
  for axis, (title, column) in zip(
    page.subplots(1, len(values)), values.items(), strict=True
  ):
    axis.hist(column, bins=40)
    axis.set_title(f"{title} ({len(column)})")
    axis.set_yscale("symlog")
  page.savefig(path, dpi=110)


def sheet(
  path: pathlib.Path, source: Any, rows: Sequence[Mapping[str, Any]]
) -> None:
  """A contact sheet of pictures from all over the split, as evaluated."""
  good = [i for i, row in enumerate(rows) if "broken" not in row]
  if not good:
    return
  spread_out = np.linspace(0, len(good) - 1, min(len(good), SHOWN)).astype(int)
  images = [Image.fromarray(source[good[i]]["image"]) for i in spread_out]
  height = max(SIDE * images[0].height // images[0].width, 1)
  small = np.stack([np.asarray(x.resize((SIDE, height))) for x in images])
  page = pictures.grid(small, min(COLUMNS, len(small)), scale=1)
  Image.fromarray(page).save(path)
