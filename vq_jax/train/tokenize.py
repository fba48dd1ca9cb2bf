"""--mode=tokenize: images -> shards of tokens, by any number of processes.

A shard is the tokens of certain rows, whoever writes it and whenever: what was
finished before a run was killed stays, and the bytes are those of a run that
was not.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vq_jax import pipeline, plugins, weights
from vq_jax.data import _loader, _shards, _transforms, tokens
from vq_jax.ops.sharding import BATCH_AXES
from vq_jax.train import actions, layout, stored
from vq_jax.train.log import progress

Config = Mapping[str, Any]
PLANNED = ("views", "mirror", "seed", "shard")  # Options that bytes depend on.


@dataclasses.dataclass(frozen=True)
class Options:
  """config.tokenize.

  Attributes:
    views: of each training image: its middle, then what training would see of
      it, a random crop and caption. Other splits have the middle alone.
    mirror: of each view of a training image, its mirror image as well.
    seed: of what is random about a view.
    shard: rows in a shard.
    text: as config.text of a prior: a frozen encoder, whose features of all
      captions are stored as well. Without a name there are none.
    process: which process this is, of `processes`; -1 asks JAX for both. Jobs
      of an array need no more than these two numbers, and never meet.
    processes: how many there are.
  """

  views: int = 1
  mirror: bool = False
  seed: int = 0
  shard: int = 2**16
  text: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  process: int = -1
  processes: int = 1

  def __post_init__(self) -> None:
    """ValueError: a number out of range."""
    for name in ("views", "shard", "processes"):
      if getattr(self, name) < 1:
        raise ValueError(
          f"config.tokenize.{name} is {getattr(self, name)}; 1 or more."
        )
    if not -1 <= self.process < self.processes:
      raise ValueError(
        f"config.tokenize.process is {self.process}; it is one of"
        f" 0..{self.processes - 1}, or -1."
      )

  @property
  def share(self) -> tuple[int, int]:
    """(process, processes)."""
    if self.process < 0:
      return jax.process_index(), jax.process_count()
    return self.process, self.processes


class Rows:
  """Rows of a token set, before they are tokenized.

  Attributes:
    numbers: which rows; those of an image lie side by side, a view and its
      mirror image too.
  """

  def __init__(
    self, source: Any, options: Options, numbers: range | None = None
  ):
    self.source, self.options = source, options
    self._each = options.views * (1 + options.mirror)
    self.numbers = numbers or range(len(source) * self._each)

  def __len__(self) -> int:
    """How many."""
    return len(self.numbers)

  def __getitem__(self, i: int) -> Mapping[str, Any]:
    """Row i of these."""
    number = self.numbers[i]
    image, view = divmod(number, self._each)
    view, mirrored = divmod(view, 1 + self.options.mirror)
    if view:
      # A view and its mirror image are drawn alike.
      rng = _transforms.randomness(self.options.seed, number - mirrored)
      example = self.source.draw(image, rng)
    else:
      example = self.source[image]
    if mirrored:
      example = {**example, "image": example["image"][:, ::-1]}
    return example

  def shards(self) -> list["Rows"]:
    """The same, a shard at a time."""
    size, count = self.options.shard, len(self.numbers)
    return [
      Rows(self.source, self.options, self.numbers[i : i + size])
      for i in range(0, count, size)
    ]


def tokenize(config: Config, workdir: pathlib.Path, mesh: Mesh) -> None:
  """Writes this process's shards of <workdir>/tokens; the last one a manifest.

  Shards that are there already, whole and of the same plan, are kept.

  Raises:
    ValueError: no tokenizer, or a wrong option.
  """
  if "tokenizer" not in config:
    raise ValueError(
      "--mode=tokenize needs the config and workdir of a tokenizer."
    )
  options = plugins.call(Options, config.get("tokenize", {}), "config.tokenize")
  batch = config["evaluate"]["batch"]
  mesh = local(mesh)
  layout.check_batch(batch, mesh, "config.evaluate.batch")
  process, processes = options.share
  text = stored.build(options.text)
  describe = stored.make_describe(text, mesh, batch) if text else None
  step, params = actions.load(config, workdir, mesh)
  params = jax.device_get(params)
  directory = workdir / "tokens"
  splits = {name: rows_of(config, name, options) for name in config["splits"]}
  manifest = make_plan(config, step, params, options, splits)
  if text:
    manifest["text"] = stored.identity(text)
  plan = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
  outdated(directory, manifest)
  if process == 0:
    weights.save_part(directory / "tokenizer", config["tokenizer"], params)
  encode = make_encode(config, params, mesh)
  own = list(named(splits))[process::processes]
  written = 0
  for name, rows in progress(own, len(own), "shards"):
    if _shards.finished(directory, name, plan, verify=True):
      continue
    batches = encoded(encode, rows, batch)
    k = manifest["vocab_size"]
    _shards.write(directory, name, batches, k, plan, describe)
    written += 1
  print(f"{directory}: {written} shards written, {len(own) - written} kept.")
  finish(directory, manifest, plan, splits, process)


def local(mesh: Mesh) -> Mesh:
  """The devices of this process alone, since processes never meet."""
  return Mesh(np.array(mesh.local_devices).reshape(-1, 1, 1), layout.AXES)


def rows_of(config: Config, split: str, options: Options) -> Rows:
  """The rows of a split; several views are of training images."""
  source = plugins.build("data", "source", config["data"], "config.data", split)
  if options.views > 1 and not hasattr(source, "draw"):
    raise ValueError(
      f"config.tokenize.views is {options.views}, but the data"
      f" {config['data']['name']!r} have one view of each image."
    )
  if split != "train":
    options = dataclasses.replace(options, views=1, mirror=False)
  return Rows(source, options)


def make_plan(
  config: Config,
  step: int,
  params: Any,
  options: Options,
  splits: Mapping[str, Rows],
) -> dict[str, Any]:
  """The manifest without the shards: all that their bytes depend on."""
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  return {
    "tokenizer": hashlib.sha256(weights.to_bytes(params)).hexdigest(),
    "step": step,
    "data": dict(config["data"]),
    "vocab_size": tokenizer.prior_vocab_size,
    "grid": list(tokenizer.grid),
    **{key: getattr(options, key) for key in PLANNED},
    "rows": {split: len(rows) for split, rows in splits.items()},
  }


def outdated(directory: pathlib.Path, manifest: Mapping[str, Any]) -> None:
  """Deletes a manifest of another plan: its shards are about to change."""
  try:
    old = tokens.read_manifest(directory)
  except FileNotFoundError:
    return
  except ValueError:
    old = {}
  if {**old, "splits": None} != {**manifest, "splits": None}:
    (directory / tokens.MANIFEST).unlink(missing_ok=True)


def named(splits: Mapping[str, Rows]) -> Iterator[tuple[str, Rows]]:
  """(name, rows) of every shard of every split."""
  for split, rows in splits.items():
    for number, shard in enumerate(rows.shards()):
      yield f"{split}-{number:05d}", shard


def make_encode(config: Config, params: Any, mesh: Mesh):
  """uint8 images [b h w c] -> ids [b n], on all devices of the mesh.

  It raises ValueError for images of another size than the tokenizer's.
  """
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  params = jax.device_put(params, NamedSharding(mesh, P()))
  place = NamedSharding(mesh, P(BATCH_AXES))
  run = jax.jit(lambda p, x: pipeline.encode(tokenizer, p, x))

  def encode(images: np.ndarray) -> np.ndarray:
    ids = np.asarray(run(params, jax.device_put(images, place)))
    if ids.shape[1] != math.prod(tokenizer.grid):
      raise ValueError(
        f"Images of {images.shape[2]} x {images.shape[1]} pixels make"
        f" {ids.shape[1]} tokens, but config.tokenizer says {tokenizer.grid}:"
        " config.data must make images of the tokenizer's size."
      )
    return ids

  return encode


def encoded(encode: Any, rows: Sequence, batch: int) -> Iterator[dict]:
  """Batches with ids in place of images."""
  keys = list(rows[0])
  for found in _loader.padded(rows, keys, batch):
    ids = encode(found.pop("image"))
    yield {"ids": ids, **found}


def finish(
  directory: pathlib.Path,
  manifest: Mapping[str, Any],
  plan: str,
  splits: Mapping[str, Rows],
  process: int,
) -> None:
  """Writes the manifest if all shards are there, whoever wrote them."""
  names = [name for name, _ in named(splits)]
  found = {n: _shards.finished(directory, n, plan, verify=False) for n in names}
  missing = [name for name in names if found[name] is None]
  if missing:
    print(
      f"{directory}: {len(missing)} of {len(names)} shards are not there yet,"
      f" {missing[0]} is the first; who writes the last one writes"
      f" {tokens.MANIFEST}."
    )
    return
  records = {split: [] for split in splits}
  for name in names:
    records[name.rpartition("-")[0]].append(dict(found[name]))
  # Two may finish at once: each has a file of its own until it is whole.
  part = directory / f".manifest.{process}.json"
  weights.write_json(part, {**manifest, "splits": records})
  part.replace(directory / tokens.MANIFEST)
