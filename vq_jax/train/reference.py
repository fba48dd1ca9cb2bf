"""What samples are compared with: features of a dataset, computed once.

A reference is one safetensors file of each network: statistics of the features
of all images, the features of the first ones, and a record that says of which
dataset, split, transform, count and network they are. The files can be passed
around: with them the dataset is not needed; where it is, it is looked at.
"""

import hashlib
import inspect
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vq_jax import evaluate, plugins, weights
from vq_jax.data import _transforms
from vq_jax.features import Features
from vq_jax.metrics import frechet
from vq_jax.train.log import progress
from vq_jax.train.protocols import Protocol

FOLDER = "reference"
# What is kept of an example, of what its network gives.
EXAMPLES = ("real_features", "real_embedding")
# Keys of config.data that change no pixel, and those that are told apart.
SILENT = ("path", "cache", "max_bad", "label", "caption")
TOLD = ("size", "transform")
PROBED = 8  # Images whose pixels are hashed.

Source = Sequence[Mapping[str, Any]]
Record = dict[str, Any]


class Reference(NamedTuple):
  """Features of a dataset.

  Attributes:
    record: of what, see `describe`.
    statistics: of the features of all images, as `metrics.frechet.init` takes
      them.
    examples: of the first images, {name in EXAMPLES: float32 [n d]}.
  """

  record: Record
  statistics: Mapping[str, Any]
  examples: Mapping[str, np.ndarray]

  @property
  def id(self) -> str:
    """Short, for a row: dataset, split, count and a hash of the record."""
    told = json.dumps(self.record, sort_keys=True).encode()
    parts = self.record["dataset"]["name"], self.record["split"]
    number = self.record["count"], hashlib.sha256(told).hexdigest()[:8]
    return "-".join(map(str, parts + number))

  @property
  def kept(self) -> int:
    """How many examples there are."""
    return len(self.examples[EXAMPLES[0]])

  def batches(self, size: int) -> Iterator[dict]:
    """The examples, as metrics that compare them read them."""
    for first in range(0, self.kept, size):
      yield {k: x[first : first + size] for k, x in self.examples.items()}


def describe(
  data: Mapping[str, Any],
  protocol: Protocol,
  network: Features,
  source: Source | None,
) -> Record:
  """What a reference is of.

  Args:
    data: the section of the dataset.
    protocol: which of its images.
    network: of the features.
    source: the images; None where they are not at hand.

  Returns:
    dataset, split, transform, limit, kept, features, weights (their hash) and,
    with a source, count, shape and pixels (a hash of some images).
  """
  told = (*SILENT, *TOLD)
  record = {
    "dataset": {k: v for k, v in data.items() if k not in told},
    "split": protocol.split,
    "transform": _transform(data),
    "limit": protocol.limit,
    "kept": protocol.kept,
    "features": network.name,
    "weights": network.hash,
  }
  if source is not None:
    count = min(protocol.limit or len(source), len(source))
    shape = list(source[0]["image"].shape)
    pixels = _pixels(source, count)
    record |= {"count": count, "shape": shape, "pixels": pixels}
  return json.loads(json.dumps(record))  # As it will be read.


def find(
  data: Mapping[str, Any], split: str, paths: Sequence[pathlib.Path]
) -> Source | None:
  """The images of a split; None if they are not at hand, but all references."""
  try:
    return plugins.build("data", "source", data, "config.data", split)
  except (OSError, ValueError):
    if all(path.is_file() for path in paths):
      return None
    raise


def place(
  section: Mapping[str, Any], workdir: pathlib.Path, network: Features
) -> pathlib.Path:
  """The file in config.evaluate.reference, or in the run if that is empty."""
  folder = section.get("reference", "") or workdir / FOLDER
  return pathlib.Path(folder) / f"{network.name}.safetensors"


def get(
  path: pathlib.Path,
  shared: bool,
  record: Record,
  source: Source | None,
  network: Features,
  batch: int,
) -> Reference:
  """The stored reference, or a new one where none is stored.

  Args:
    path: of the file.
    shared: the user named its folder: it is refused, not replaced, if it is of
      something else.
    record: what the reference has to be of.
    source: the images; None if there is a file and they are not at hand.
    network: of the features.
    batch: images at a time.

  Raises:
    ValueError: the file is of something else, or damaged.
  """
  if path.is_file():
    found = load(path)
    wrong = differences(found.record, record)
    if not wrong:
      return found
    if shared or source is None:
      raise ValueError(
        f"{path} is another reference than is asked for: {'; '.join(wrong)}."
        " Correct the config, or name another folder in"
        " config.evaluate.reference."
      )
    print(f"{path} was another reference ({'; '.join(wrong)}): made again.")
  made = make(source, record, network, batch)
  save(path, made)
  return made


def differences(found: Record, wanted: Record) -> list[str]:
  """What differs, in words; what is not known of `wanted` cannot."""
  return [
    f"{key} is {found.get(key)}, not {value}"
    for key, value in wanted.items()
    if found.get(key) != value
  ]


def make(
  source: Source, record: Record, network: Features, batch: int
) -> Reference:
  """Computes the features of the images that the record tells of."""
  state, kept, left = frechet.init(), [], record["kept"]
  batches = evaluate.originals(source, batch, record["count"])
  total, what = -(-record["count"] // batch), f"reference, {batch} at a time"
  for rows in progress(batches, total, what):
    mask = rows["mask"]
    rows = evaluate.featured({"real": rows["real"]}, network, ("real",))
    found = {key: rows[key][mask] for key in EXAMPLES if key in rows}
    state = frechet.update(state, {EXAMPLES[0]: found[EXAMPLES[0]]})
    kept.append({key: x[:left].astype(np.float32) for key, x in found.items()})
    left -= len(kept[-1][EXAMPLES[0]])
  examples = {key: np.concatenate([k[key] for k in kept]) for key in kept[0]}
  return Reference(record, frechet.statistics(state), examples)


def save(path: pathlib.Path, reference: Reference) -> None:
  """Writes the file whole or not at all."""
  statistics = {k: np.asarray(v) for k, v in reference.statistics.items()}
  tree = {"examples": reference.examples, "statistics": statistics}
  path.parent.mkdir(parents=True, exist_ok=True)
  told = {"record": reference.record, "sha256": _content(tree)}
  weights.save(path, tree, json.dumps(told))


def load(path: pathlib.Path) -> Reference:
  """Reads the file.

  Raises:
    ValueError: it is damaged, or no reference.
  """
  tree, told = weights.load(path)
  try:
    told = json.loads(told)
    record, content = told["record"], told["sha256"]
    examples, statistics = tree["examples"], tree["statistics"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} holds no reference statistics.") from error
  if _content(tree) != content:
    raise ValueError(
      f"{path} is damaged: its numbers are not those that were written; delete"
      " it."
    )
  statistics = statistics | {"count": int(statistics["count"])}
  return Reference(record, statistics, examples)


def _content(tree: Mapping[str, Any]) -> str:
  """SHA-256 of the arrays."""
  found = hashlib.sha256()
  for name, array in sorted(weights.flatten(tree).items()):
    found.update(name.encode())
    found.update(np.asarray(array, order="C").tobytes())
  return found.hexdigest()


def _transform(data: Mapping[str, Any]) -> Record:
  """How pictures became pixels, as far as config.data decides it."""
  module = plugins.resolve("data", data["name"])
  if "transform" not in inspect.signature(module.source).parameters:
    return {"size": data.get("size")}
  filter_ = data.get("transform", {}).get("resample")
  return {
    "size": data.get("size"),
    "crop": "center",
    "resample": filter_ or _transforms.Transform.resample,
  }


def _pixels(source: Source, count: int) -> str:
  """A hash of some images, spread over all that are used."""
  spread = np.linspace(0, count - 1, min(PROBED, count)).astype(int)
  found = hashlib.sha256()
  for i in spread:
    found.update(np.asarray(source[int(i)]["image"], order="C").tobytes())
  return found.hexdigest()[:16]
