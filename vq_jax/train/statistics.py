"""--mode=statistics: what is in the data, and what of it cannot be read."""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


@dataclasses.dataclass
class Counts:
  """What is counted: as large as what differs, not as the data.

  Attributes:
    good: one byte a picture, whether it can be decoded.
    broken: name -> why it cannot.
    sizes: (width, height) -> pictures.
    texts: number of captions -> pictures.
    lengths: characters -> captions.
    labels: class -> pictures.
  """

  good: bytearray = dataclasses.field(default_factory=bytearray)
  broken: dict[str, str] = dataclasses.field(default_factory=dict)
  sizes: Counter = dataclasses.field(default_factory=Counter)
  texts: Counter = dataclasses.field(default_factory=Counter)
  lengths: Counter = dataclasses.field(default_factory=Counter)
  labels: Counter = dataclasses.field(default_factory=Counter)

  def add(self, row: Mapping[str, Any]) -> None:
    """Counts what `examined` says of a picture."""
    self.good.append("broken" not in row)
    if "broken" in row:
      self.broken[row["broken"]] = row["reason"]
      return
    captions = row["captions"].split("\n") if row["captions"] else []
    self.sizes[row["size"]] += 1
    self.texts[len(captions)] += 1
    self.lengths.update(map(len, captions))
    if row["label"] is not None:
      self.labels[row["label"]] += 1


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
    counts = Counts()
    for row in progress(examined(source), len(source), f"statistics {split}"):
      counts.add(row)
    records = getattr(source, "records", None)
    report[split] = summary(counts, getattr(records, "classes", ()))
    report[split]["faults"] = list(getattr(records, "faults", ()))
    charts(folder / f"{split}.png", report[split], counts)
    sheet(folder / f"{split}_sheet.png", source, counts)
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


def summary(counts: Counts, classes: Sequence[str] = ()) -> dict[str, Any]:
  """Counts -> numbers, as JSON can hold them.

  Args:
    counts: of all pictures.
    classes: names of the labels, where there are any.

  Returns:
    pictures: their number, broken ones included. broken: {name: reason}.
    width, height: least, median, most, in pixels. sizes: the ten commonest.
    captions: per picture, and length in characters, likewise. classes: {name:
    pictures}, all of them that are known. per_class: least, median, most.
  """
  labels = range(len(classes)) if len(classes) else sorted(counts.labels)
  names = {
    label: classes[label] if len(classes) else str(label) for label in labels
  }
  widths, heights = (
    merged((size[axis], n) for size, n in counts.sizes.items())
    for axis in (0, 1)
  )
  common = counts.sizes.most_common(10)
  told = {number: n for number, n in counts.texts.items() if number}
  return {
    "pictures": len(counts.good),
    "broken": counts.broken,
    "width": spread(widths),
    "height": spread(heights),
    "sizes": {f"{w}x{h}": n for (w, h), n in common},
    "without_caption": counts.texts[0],
    "captions_per_picture": spread(told),
    "caption_length": spread(counts.lengths),
    "classes": {names[label]: counts.labels[label] for label in labels},
    "per_class": spread(Counter(counts.labels[label] for label in labels)),
  }


def merged(pairs: Iterable[tuple[float, int]]) -> Counter:
  """(value, how often) pairs, some of one value -> how often each."""
  total: Counter = Counter()
  for value, count in pairs:
    total[value] += count
  return total


def spread(counts: Mapping[int, int]) -> dict[str, int]:
  """Value -> how often: the least, the median and the most; none of none."""
  if not counts:
    return {}
  found = np.percentile(
    list(counts),
    list(PERCENTILES.values()),
    weights=list(counts.values()),
    method="inverted_cdf",
  )
  return dict(zip(PERCENTILES, found.tolist(), strict=True))


def charts(
  path: pathlib.Path, found: Mapping[str, Any], counts: Counts
) -> None:
  """Histograms of sizes, caption lengths and pictures per class."""
  sizes = counts.sizes.items()
  values = {
    "shorter side, pixels": merged((min(size), n) for size, n in sizes),
    "width / height": merged((w / h, n) for (w, h), n in sizes),
    "characters of a caption": counts.lengths,
    "pictures of a class": Counter(found["classes"].values()),
  }
  page = figure.Figure((4 * len(values), 3.4), layout="constrained")
  for axis, (title, column) in zip(
    page.subplots(1, len(values)), values.items(), strict=True
  ):
    axis.hist(list(column), bins=40, weights=list(column.values()))
    axis.set_title(f"{title} ({column.total()})")
    axis.set_yscale("symlog")
  page.savefig(path, dpi=110)


def sheet(path: pathlib.Path, source: Any, counts: Counts) -> None:
  """A contact sheet of pictures from all over the split, as evaluated."""
  good = np.flatnonzero(np.frombuffer(counts.good, np.uint8))
  if not len(good):
    return
  spread_out = np.linspace(0, len(good) - 1, min(len(good), SHOWN)).astype(int)
  images = [Image.fromarray(source[int(i)]["image"]) for i in good[spread_out]]
  height = max(SIDE * images[0].height // images[0].width, 1)
  small = np.stack([np.asarray(x.resize((SIDE, height))) for x in images])
  page = pictures.grid(small, min(COLUMNS, len(small)), scale=1)
  Image.fromarray(page).save(path)
