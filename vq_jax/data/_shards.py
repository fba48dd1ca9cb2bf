"""A shard of a token set: a directory with a .npy file per column.

Numbers are mapped into memory, so that a set may be larger than it; strings are
UTF-8 one after another, with the places where they end in a second file. Text
features are a table and, in a second file, which of its rows a row has.
shard.json tells sizes and checksums.
"""

import functools
import hashlib
import itertools
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vq_jax import weights
from vq_jax.data import _features

RECORD = "shard.json"
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


def check(directory: pathlib.Path, record: Record, verify: bool) -> None:
  """Compares the files of a shard with its record.

  Args:
    directory: of the token set.
    record: what was written.
    verify: compare checksums, for which all is read once; without, sizes alone.

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


def finished(
  directory: pathlib.Path, name: str, plan: str, verify: bool
) -> Record | None:
  """What shard.json says; None if the shard is not whole, or of another plan.

  verify: see `check`.
  """
  try:
    record = weights.load_json(directory / name / RECORD, "")
    if record["plan"] != plan:
      return None
    check(directory, record, verify)
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
  directory: pathlib.Path,
  name: str,
  batches: Iterable[Mapping[str, Any]],
  vocab_size: int,
  plan: str = "",
  describe: _features.Describe | None = None,
) -> Record:
  """Writes batches of {"ids", ...} as one shard; `mask` [b] drops padded rows.

  The shard appears whole or not at all, in place of any that is there.

  Args:
    directory: of the token set.
    name: of the shard.
    batches: at least one, with rows of equal shapes.
    vocab_size: K.
    plan: what the shard is part of, see `finished`.
    describe: of captions, whose features are stored as well.

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
  check_ids(ids, vocab_size, f"{directory}/{name}")
  rows["ids"] = ids.astype(np.uint16 if vocab_size <= 2**16 else np.uint32)
  part = directory / f".{name}.part"
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  for key in sorted(rows):
    for file, array in _files(key, rows[key]).items():
      np.save(part / file, array, allow_pickle=False)
  if describe:
    _features.write(part, rows, describe)
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


def read(directory: pathlib.Path, record: Record) -> dict[str, Any]:
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
    name.partition(".")[0]: _column(name, arrays)
    for name in arrays
    if not name.endswith((ENDS, _features.SPANS))
  }


def _column(name: str, arrays: Mapping[str, np.ndarray]) -> Sequence:
  """The column of a file, and of the second one if it has two."""
  if name.endswith(TEXT):
    return Text(arrays[name], arrays[name.replace(TEXT, ENDS)])
  if name.endswith(_features.TABLE):
    spans = name.replace(_features.TABLE, _features.SPANS)
    return _features.Shared(arrays[name], arrays[spans])
  return arrays[name]


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
