"""Pictures in tar files, as img2dataset and webdataset write them.

Members of one example lie side by side and share their name up to its first
dot: NAME.jpg, NAME.txt (its caption), NAME.json (with "caption", read if there
is no .txt) and NAME.cls (its class, a number).

Any example is read by the offset of its bytes. The offsets are found once and
kept in NAME.tar.index.npz, beside the shard or in a directory of their own.

Of a shard that was cut off, or is no tar at all, the members before that are
used, and what is missing is told.
"""

import hashlib
import json
import logging
import os
import pathlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vq_jax import plugins
from vq_jax.data import _skipping, _transforms, folder

PARTS = ("image", "txt", "json")
COLUMNS = ("offset", "size", "label")
BLOCK = 512  # Bytes, of which a tar consists.
VERSION = 1  # Of the index; another one is built anew.

_LOG = logging.getLogger(__name__)
_LOG.setLevel(logging.WARNING)  # Also where the root logger is quieter.


class Records:
  """Members of shards, unread.

  Attributes:
    shards: the tar files.
    index: `key` [N] UTF-8, `shard` [N], `offset` and `size` [N 3] in bytes, in
      the order of PARTS, and `label` [N]; size and label are -1 where there is
      none.
    labels: class ids [N], if there are any.
    classes: none: a number is all that is known.
    faults: what is missing from shards that were cut off.
  """

  def __init__(
    self,
    shards: list[pathlib.Path],
    index: Mapping[str, np.ndarray],
    faults: list[str],
  ):
    self.shards, self.index, self.faults = shards, index, faults
    self.classes: list[str] = []
    self.labels = index["label"] if np.any(index["label"] >= 0) else None

  def __len__(self) -> int:
    """How many pictures."""
    return len(self.index["key"])

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Record i."""
    there = [
      p for p, n in zip(PARTS, self.index["size"][i], strict=True) if n >= 0
    ]
    if "txt" in there and "json" in there:
      there.remove("json")
    with open(self.shards[self.index["shard"][i]], "rb", buffering=0) as tar:
      parts = {part: self._read(tar, i, PARTS.index(part)) for part in there}
    record = {"image": parts["image"], "captions": _captions(parts)}
    if self.labels is not None:
      record["label"] = int(self.labels[i])
      if record["label"] < 0:
        raise ValueError("it has no class, and others have")
    return record

  def name(self, i: int) -> str:
    """Shard and member."""
    key = self.index["key"][i].decode()
    return f"{self.shards[self.index['shard'][i]]}:{key}"

  def _read(self, tar: Any, i: int, part: int) -> bytes:
    """One member."""
    tar.seek(int(self.index["offset"][i, part]))
    size = int(self.index["size"][i, part])
    data = tar.read(size)
    if len(data) < size:
      raise ValueError("the shard has become shorter; delete its index")
    return data


def source(
  split: str,
  *,
  path: str,
  size: int,
  shards: Mapping[str, str] | None = None,
  cache: str = "",
  transform: Mapping[str, Any] | None = None,
  max_bad: float = 0.01,
) -> _skipping.Source:
  """The pictures of one split.

  Args:
    split: "train" or "validation", or a key of `shards`.
    path: the directory of the shards.
    size: pixels a side.
    shards: split -> a pattern of its tar files, relative to `path`, such as
      "train/*.tar". Without, all below `path`, of which a hash of each name
      draws a tenth of the pictures for validation.
    cache: directory of the indices; empty is beside the shards.
    transform: arguments of `_transforms.Transform`.
    max_bad: the share of pictures that may be bad.

  Returns:
    A Source.

  Raises:
    FileNotFoundError: no such directory, no shard, or no picture in them.
    ValueError: no such split.
  """
  made = _transforms.make(size, transform or {})
  root = pathlib.Path(path)
  if not root.is_dir():
    raise FileNotFoundError(f"There is no folder of tar files {path}.")
  legal = shards or folder.TENTHS
  if split not in legal:
    raise ValueError(plugins.unknown(split, legal, "webdataset has no split"))
  pattern = shards[split] if shards else "**/*.tar"
  files = sorted(root.glob(pattern))
  if not files:
    raise FileNotFoundError(f"There is no tar file {root / pattern}.")
  index, faults = _join(files, root, cache)
  if not shards:
    keep = np.array(
      [_tenth(key) in folder.TENTHS[split] for key in index["key"]], bool
    )
    index = {name: column[keep] for name, column in index.items()}
  if not len(index["key"]):
    told = " ".join(faults)
    raise FileNotFoundError(
      f"The tar files {root / pattern} hold no picture of the split {split!r}."
      f" {told}".strip()
    )
  return _skipping.Source(Records(files, index, faults), made, max_bad)


def _join(
  files: list[pathlib.Path], root: pathlib.Path, cache: str
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The indices of all shards as one; and their faults."""
  parts, faults = [], []
  for number, file in enumerate(files):
    place = pathlib.Path(cache) / file.relative_to(root) if cache else file
    index = _index(file, place.with_name(f"{place.name}.index.npz"))
    if fault := str(index.pop("fault")):
      faults.append(f"{file}: {fault}")
    index["shard"] = np.full(len(index["key"]), number, np.int32)
    parts.append(index)
  names = ("key", "shard", *COLUMNS)
  return {k: np.concatenate([p[k] for p in parts]) for k in names}, faults


def _index(file: pathlib.Path, place: pathlib.Path) -> dict[str, np.ndarray]:
  """key, COLUMNS and fault of one shard: as kept, or found and kept."""
  found = os.stat(file)
  stamp = np.array([VERSION, found.st_size, found.st_mtime_ns])
  try:
    with open(place, "rb") as data, np.load(data, allow_pickle=False) as kept:
      index = dict(kept)
    if np.array_equal(index.pop("stamp"), stamp):
      return index
  except Exception:
    pass  # There is none, or it is damaged: a new one takes its place.
  index = _scan(file, found.st_size)
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    with open(part, "wb") as data:
      np.savez(data, stamp=stamp, **index)
    part.replace(place)
  except OSError as error:
    _LOG.warning(
      "%s cannot be written (%s): %s is searched again in every run; name a"
      " directory with config.data.cache.",
      *(place, _skipping.reason(error), file),
    )
  return index


def _scan(file: pathlib.Path, length: int) -> dict[str, np.ndarray]:
  """Reads the headers of a shard."""
  rows: dict[bytes, np.ndarray] = {}
  labels: dict[bytes, int] = {}
  fault = ""
  try:
    with tarfile.open(file, "r:") as tar:
      for member in _members(tar):
        end = member.offset_data + member.size
        if end > length:
          fault = f"it is cut off inside {member.name}"
          break
        if key := _add(rows, member):
          labels[key] = _class(tar, member)
      if not fault and not _ends(file, tar.offset):
        fault = f"it is cut off or damaged behind byte {tar.offset}"
  except (tarfile.TarError, OSError, ValueError, EOFError) as error:
    fault = f"it is no tar file ({_skipping.reason(error)})"
  table = np.array(list(rows.values()), np.int64).reshape(-1, len(PARTS), 2)
  shown = table[:, 0, 1] >= 0  # Without a picture there is no example.
  label = np.array([labels.get(key, -1) for key in rows], np.int32)
  if fault:
    fault += f"; the {shown.sum()} pictures before that are used."
  return {
    "key": np.array(list(rows), np.bytes_).reshape(-1)[shown],
    "offset": table[shown, :, 0],
    "size": table[shown, :, 1],
    "label": label[shown],
    "fault": np.array(fault),
  }


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
  """Files in their order, up to where the next header cannot be read."""
  while True:
    try:
      member = tar.next()
    except tarfile.ReadError:
      if not tar.offset:
        raise
      return
    if member is None:
      return
    tar.members.clear()  # It would remember all of them.
    if member.isreg():
      yield member


def _ends(file: pathlib.Path, offset: int) -> bool:
  """Whether the block that ends a tar stands there."""
  with open(file, "rb") as data:
    data.seek(offset)
    return data.read(BLOCK) == bytes(BLOCK)


def _add(
  rows: dict[bytes, np.ndarray], member: tarfile.TarInfo
) -> bytes | None:
  """Enters a member into its example; the example's key if it is the class."""
  directory, slash, name = member.name.rpartition("/")
  stem, _, suffix = name.partition(".")
  suffix = suffix.lower()
  part = "image" if f".{suffix}" in folder.SUFFIXES else suffix
  if part not in (*PARTS, "cls") or not stem:
    return None
  key = f"{directory}{slash}{stem}".encode("utf-8", "replace")
  row = rows.setdefault(key, np.full((len(PARTS), 2), -1, np.int64))
  if part == "cls":
    return key
  row[PARTS.index(part)] = member.offset_data, member.size
  return None


def _class(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
  """The number that a member holds; -1 if it holds none."""
  data = tar.extractfile(member)
  try:
    return max(int(data.read()), -1) if data else -1
  except ValueError:
    return -1


def _captions(parts: Mapping[str, bytes]) -> list[str]:
  """What an example says of itself."""
  if "txt" in parts:
    return [parts["txt"].decode("utf-8-sig", "replace")]
  if "json" not in parts:
    return []
  told = json.loads(parts["json"].decode("utf-8", "replace")).get("caption")
  told = [] if told is None else told
  return [told] if isinstance(told, str) else list(map(str, told))


def _tenth(key: bytes) -> int:
  """0..9, a hash of the name and nothing else."""
  return int.from_bytes(hashlib.sha256(key).digest()[:8]) % 10
