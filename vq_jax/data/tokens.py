"""Tokenized datasets: what `--mode=tokenize` wrote, read whole into memory."""

import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vq_jax import weights
from vq_jax.data import _loader

MANIFEST = "manifest.json"


class Source:
  """Random access to {"ids": int32 [n], "label", "style", "caption"}."""

  def __init__(self, columns: Mapping[str, np.ndarray]):
    self.columns = columns

  def __len__(self) -> int:
    """Number of images."""
    return len(self.columns["ids"])

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Example i."""
    row = {key: column[i] for key, column in self.columns.items()}
    return {k: str(v) if isinstance(v, str) else v for k, v in row.items()}


def read_manifest(path: str) -> dict[str, Any]:
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


def source(split: str, *, path: str) -> Source:
  """The tokens of one split.

  Raises:
    FileNotFoundError: no token set, or one of its shards is missing.
    ValueError: unknown or empty split, unreadable shard, or a token out of
      range.
  """
  manifest = read_manifest(path)
  if split not in manifest["splits"]:
    raise ValueError(
      f"{path} has no split {split!r}; it has {sorted(manifest['splits'])}."
    )
  if not manifest["splits"][split]:
    raise ValueError(f"The split {split!r} of {path} holds no image.")
  shards = [
    _read(pathlib.Path(path) / name) for name in manifest["splits"][split]
  ]
  columns = {k: np.concatenate([s[k] for s in shards]) for k in shards[0]}
  check_ids(columns["ids"], manifest["vocab_size"], path)
  columns["ids"] = columns["ids"].astype(np.int32)
  return Source(columns)


def check_ids(ids: np.ndarray, vocab_size: int, where: str) -> None:
  """ValueError, naming the first offender, unless all ids are in 0..K-1."""
  bad = np.argwhere((ids < 0) | (ids >= vocab_size))
  if len(bad):
    image, position = bad[0]
    raise ValueError(
      f"{where}: token {int(ids[image, position])} at position {position} of"
      f" image {image} is not in 0..{vocab_size - 1} ({len(bad)} such tokens);"
      " tokenize the data again."
    )


def write(
  path: str,
  split: str,
  batches: Iterator[Mapping[str, Any]],
  vocab_size: int,
  shard_size: int = 2**16,
) -> list[str]:
  """Writes batches of {"ids", ...} as shards; returns their names.

  Each shard appears whole or not at all. `mask` [b] drops padded rows.
  """
  directory = pathlib.Path(path)
  directory.mkdir(parents=True, exist_ok=True)
  names: list[str] = []
  rows: list[dict[str, Any]] = []

  def flush() -> None:
    name = f"{split}-{len(names):05d}.npz"
    columns = _loader.stack(rows, list(rows[0]))
    kind = np.uint16 if vocab_size <= 2**16 else np.uint32
    columns["ids"] = columns["ids"].astype(kind)
    part = directory / f".{name}.part"
    with open(part, "wb") as file:
      np.savez(file, **{k: np.asarray(v) for k, v in columns.items()})
    part.rename(directory / name)
    names.append(name)
    rows.clear()

  for batch in batches:
    keys = [key for key in batch if key != "mask"]
    for i in np.flatnonzero(batch["mask"]):
      rows.append({key: batch[key][i] for key in keys})
      if len(rows) == shard_size:
        flush()
  if rows:
    flush()
  return names


def _read(file: pathlib.Path) -> dict[str, np.ndarray]:
  if not file.is_file():
    raise FileNotFoundError(f"The shard {file} is missing; tokenize again.")
  try:
    # np.load leaves open what it opened itself and found damaged.
    with open(file, "rb") as data, np.load(data, allow_pickle=False) as shard:
      return dict(shard)
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"The shard {file} is damaged ({error}); delete it and tokenize again."
    ) from error
