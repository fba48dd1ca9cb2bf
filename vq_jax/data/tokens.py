"""Tokenized datasets: what `--mode=tokenize` wrote, read where it lies.

A shard is a directory: a .npy file per column, and shard.json, which tells
their sizes and checksums. The manifest repeats that for all shards. Numbers are
mapped into memory, so that a set may be larger than it; strings are UTF-8 one
after another, with the places where they end in a second file.
"""

import concurrent.futures
import functools
import hashlib
import itertools
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vq_jax import weights
from vq_jax.data import _skipping

MANIFEST = "manifest.json"
RECORD = "shard.json"
OPEN = 128  # Shards that are mapped at a time; each takes a few open files.
TEXT, ENDS = ".utf8.npy", ".ends.npy"  # Of a column of strings.

Record = Mapping[str, Any]  # A shard: name, rows, files, and of which plan.


class Text(Sequence):
  """Strings in UTF-8, one after another, and where each ends."""

  def __init__(self, data: np.ndarray, ends: np.ndarray):
    self.data, self.ends = data, ends

  def __len__(self) -> int:
    """How many."""
    return len(self.ends)

  def __getitem__(self, i: int) -> str:
    """String i."""
    if not 0 <= i < len(self.ends):
      raise IndexError(f"There are {len(self)} strings, no number {i}.")
    first = int(self.ends[i - 1]) if i else 0
    return self.data[first : int(self.ends[i])].tobytes().decode()


class Source:
  """Random access to {"ids": int32 [n], "label", "style", "caption", ...}.

  Attributes:
    columns: the same by key, whole: an array is read when it is asked for.
  """

  def __init__(self, directory: pathlib.Path, records: Sequence[Record]):
    self._ends = np.cumsum([record["rows"] for record in records])
    self._open = functools.lru_cache(OPEN)(
      lambda shard: _columns(directory, records[shard])
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
    if not -len(self) <= i < len(self):
      raise IndexError(f"There are {len(self)} rows, no number {i}.")
    i = int(i) % len(self)
    shard = int(np.searchsorted(self._ends, i, side="right"))
    first = int(self._ends[shard - 1]) if shard else 0
    row = {key: column[i - first] for key, column in self._open(shard).items()}
    return row | {"ids": row["ids"].astype(np.int32)}

  def draw(self, i: int, rng: np.random.Generator) -> dict[str, Any]:
    """The same with any of its captions."""
    row = self[i]
    if "captions" in row:
      row["caption"] = _skipping.choose(row["captions"], rng)
    return row

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
    return list(self._open(0))


class Columns(Mapping):
  """Columns of a source, each read whole when it is asked for."""

  def __init__(self, source: Source):
    self.source = source

  def __getitem__(self, key: str) -> np.ndarray:
    """All rows of it; of strings, an array of objects."""
    if key not in self.source.keys():  # noqa: SIM118
      raise KeyError(key)
    parts = list(self.source.parts(key))
    if isinstance(parts[0], Text):
      return np.array(list(itertools.chain(*parts)), object)
    whole = np.concatenate(parts)
    return whole.astype(np.int32) if key == "ids" else whole

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
    list(pool.map(lambda r: check_shard(directory, r, verify), records))
  return Source(directory, records)


def check_shard(directory: pathlib.Path, record: Record, verify: bool) -> None:
  """Compares the files of a shard with its record.

  Raises:
    FileNotFoundError: one is missing.
    ValueError: one has another size, or with `verify` another checksum.
  """
  for name, told in record["files"].items():
    file = directory / record["name"] / name
    if not file.is_file():
      raise FileNotFoundError(f"The shard {file} is missing; tokenize again.")
    found = file.stat()
    if found.st_size != told["bytes"]:
      raise ValueError(
        f"The shard {file} is damaged: it has {found.st_size} bytes, not"
        f" {told['bytes']}; tokenize again."
      )
    stamp = found.st_size, found.st_mtime_ns
    if verify and _checked(str(file), stamp) != told["sha256"]:
      raise ValueError(
        f"The shard {file} is damaged: its checksum is not that of what was"
        " written; tokenize again."
      )


def finished(path: str, name: str, plan: str, verify: bool) -> Record | None:
  """What shard.json says; None if the shard is not whole, or of another plan.

  verify: see `source`.
  """
  directory = pathlib.Path(path)
  try:
    record = weights.load_json(directory / name / RECORD, "")
    if record["plan"] != plan:
      return None
    check_shard(directory, record, verify)
  except (OSError, ValueError):
    return None
  return record


def check_ids(ids: np.ndarray, vocab_size: int, where: str) -> None:
  """ValueError, naming the first offender, unless all ids are in 0..K-1."""
  bad = np.argwhere((ids < 0) | (ids >= vocab_size))
  if len(bad):
    image, position = bad[0]
    raise ValueError(
      f"{where}: token {int(ids[image, position])} at position {position} of"
      f" image {image} is not in 0..{vocab_size - 1} ({len(bad)} such tokens)."
    )


def write(
  path: str | pathlib.Path,
  name: str,
  batches: Iterable[Mapping[str, Any]],
  vocab_size: int,
  plan: str = "",
) -> Record:
  """Writes batches of {"ids", ...} as one shard; `mask` [b] drops padded rows.

  The shard appears whole or not at all, in place of any that is there.

  Args:
    path: directory of the token set.
    name: of the shard.
    batches: at least one, with rows of equal shapes.
    vocab_size: K.
    plan: what the shard is part of, see `finished`.

  Returns:
    The entry of the manifest.

  Raises:
    ValueError: a token out of range.
  """
  rows: dict[str, list] = {}
  for batch in batches:
    for key in batch.keys() - {"mask"}:
      chosen = itertools.compress(batch[key], batch["mask"])
      rows.setdefault(key, []).extend(chosen)
  ids = np.stack(rows["ids"])
  check_ids(ids, vocab_size, f"{path}/{name}")
  rows["ids"] = ids.astype(np.uint16 if vocab_size <= 2**16 else np.uint32)
  part = pathlib.Path(path) / f".{name}.part"
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  for key in sorted(rows):
    for file, array in _files(key, rows[key]).items():
      np.save(part / file, array, allow_pickle=False)
  record = {
    "name": name,
    "rows": len(ids),
    "plan": plan,
    "files": {file.name: _told(file) for file in sorted(part.iterdir())},
  }
  weights.write_json(part / RECORD, record)
  place = part.with_name(name)
  shutil.rmtree(place, ignore_errors=True)
  part.rename(place)
  return record


def _files(key: str, column: Sequence) -> dict[str, np.ndarray]:
  """File names -> arrays of one column."""
  if not isinstance(column[0], str):
    return {f"{key}.npy": np.asarray(column)}
  encoded = [text.encode("utf-8", "replace") for text in column]
  ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
  data = np.frombuffer(b"".join(encoded), np.uint8)
  return {key + TEXT: data, key + ENDS: ends}


def _columns(directory: pathlib.Path, record: Record) -> dict[str, Any]:
  """The columns of a shard, mapped."""
  arrays = {}
  for name in record["files"]:
    file = directory / record["name"] / name
    try:
      mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
      raise ValueError(
        f"The shard {file} is damaged ({error}); tokenize again."
      ) from error
    arrays[name] = np.asarray(mapped)
  return {
    name.partition(".")[0]: Text(array, arrays[name.replace(TEXT, ENDS)])
    if name.endswith(TEXT)
    else array
    for name, array in arrays.items()
    if not name.endswith(ENDS)
  }


def _told(file: pathlib.Path) -> dict[str, Any]:
  """Size and checksum of a file."""
  return {"bytes": file.stat().st_size, "sha256": _checksum(str(file))}


def _checksum(file: str) -> str:
  with open(file, "rb") as data:
    return hashlib.file_digest(data, "sha256").hexdigest()


@functools.lru_cache(None)
def _checked(file: str, stamp: tuple[int, int]) -> str:
  """The checksum, computed again only where size or time have changed."""
  del stamp
  return _checksum(file)
