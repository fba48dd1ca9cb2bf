"""Tokenized datasets: what `--mode=tokenize` wrote, read where it lies.

The manifest tells whose tokens they are, of what, and of which shards they are.
"""

import concurrent.futures
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vq_jax import weights
from vq_jax.data import _features, _shards, _skipping

MANIFEST = "manifest.json"
OPEN = 128  # Shards that are mapped at a time; each takes a few open files.


class Source:
  """Random access to {"ids": int32 [n], "label", "style", "caption", ...}.

  With `features` [m d] of the caption, float16, where they are stored.

  Attributes:
    columns: the same by key, whole, but for features, which memory may not
      hold: an array is read when it is asked for.
  """

  def __init__(
    self, directory: pathlib.Path, records: Sequence[_shards.Record]
  ):
    self._ends = np.cumsum([record["rows"] for record in records])
    self._open = functools.lru_cache(OPEN)(
      lambda shard: _shards.read(directory, records[shard])
    )
    self._shards = range(len(records))
    self.columns = Columns(self)

  def __len__(self) -> int:
    """Number of rows."""
    return int(self._ends[-1])

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Example i.

    Raises:
      IndexError: there are fewer.
    """
    return _features.chosen(self._row(i))

  def _row(self, i: int) -> dict[str, Any]:
    """The same, with the features [c m d] of all its captions."""
    if not -len(self) <= i < len(self):
      raise IndexError(f"There are {len(self)} rows, no number {i}.")
    i = int(i) % len(self)
    shard = int(np.searchsorted(self._ends, i, side="right"))
    first = int(self._ends[shard - 1]) if shard else 0
    row = {key: column[i - first] for key, column in self._open(shard).items()}
    return row | {"ids": row["ids"].astype(np.int32)}

  def draw(self, i: int, rng: np.random.Generator) -> dict[str, Any]:
    """The same with any of its captions."""
    row = self._row(i)
    if "captions" in row:
      row["caption"] = _skipping.choose(row["captions"], rng)
    return _features.chosen(row)

  @property
  def labels(self) -> np.ndarray | None:
    """Class ids [N], if there are any."""
    return self.columns.get("label")

  def counts(self, vocab_size: int) -> np.ndarray:
    """How often each token occurs: int64 [K]; one shard in memory at a time."""
    total = np.zeros(vocab_size, np.int64)
    for ids in self.parts("ids"):
      total += np.bincount(ids.ravel(), minlength=vocab_size)
    return total

  def parts(self, key: str) -> Iterator[Any]:
    """A column, shard by shard."""
    return (self._open(shard)[key] for shard in self._shards)

  def keys(self) -> list[str]:
    """The columns' names."""
    return [key for key in self._open(0) if key != "features"]


class Columns(Mapping):
  """Columns of a source, each read whole when it is asked for."""

  def __init__(self, source: Source):
    self.source = source

  def __getitem__(self, key: str) -> np.ndarray:
    """All rows of it; of strings, an array of objects."""
    if key not in self:
      raise KeyError(key)
    parts = list(self.source.parts(key))
    if isinstance(parts[0], _shards.Text):
      return np.array(list(itertools.chain(*parts)), object)
    whole = np.concatenate(parts)
    return whole.astype(np.int32) if key == "ids" else whole

  def __contains__(self, key: object) -> bool:
    """Whether there is such a column; reads none."""
    return key in self.source.keys()  # noqa: SIM118

  def __iter__(self) -> Iterator[str]:
    """The keys."""
    return iter(self.source.keys())

  def __len__(self) -> int:
    """How many keys."""
    return len(self.source.keys())


def read_manifest(path: str | pathlib.Path) -> dict[str, Any]:
  """What the directory holds.

  Raises:
    FileNotFoundError: it holds no finished token set.
    ValueError: the manifest is damaged.
  """
  file = pathlib.Path(path) / MANIFEST
  if not file.is_file():
    raise FileNotFoundError(
      f"{path} holds no finished token set (no {MANIFEST}); write one with"
      " --mode=tokenize and the workdir of a trained tokenizer."
    )
  return weights.load_json(file, "delete it and tokenize again")


def source(split: str, *, path: str, verify: bool = True) -> Source:
  """The tokens of one split.

  Args:
    split: a split of the manifest.
    path: the directory that holds it.
    verify: read all files once, before anything else, to compare checksums.
      Without, sizes alone are compared.

  Raises:
    FileNotFoundError: no token set, or a part of it is missing.
    ValueError: unknown or empty split, or a damaged shard.
  """
  manifest, directory = read_manifest(path), pathlib.Path(path)
  if split not in manifest["splits"]:
    raise ValueError(
      f"{path} has no split {split!r}; it has {sorted(manifest['splits'])}."
    )
  records = manifest["splits"][split]
  if not records:
    raise ValueError(f"The split {split!r} of {path} holds no image.")
  if isinstance(records[0], str):
    raise ValueError(
      f"The tokens in {path} have the files of an earlier version; tokenize"
      " again."
    )
  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(lambda r: _shards.check(directory, r, verify), records))
  return Source(directory, records)
