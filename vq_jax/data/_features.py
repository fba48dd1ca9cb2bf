"""Text features of a token set: a table of captions, which rows share.

Views and mirror images of a picture have the same captions, and so have the
pictures of a class that have no other: the features of each are stored once.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

TABLE, SPANS = ".table.npy", ".spans.npy"  # Features, and which a row has.

# Captions -> their features [b m d], batch after batch.
Describe = Callable[[Sequence[str]], Iterator[np.ndarray]]


class Shared(Sequence):
  """Rows of a table [c m d], some for each row of a shard."""

  def __init__(self, table: np.ndarray, spans: np.ndarray):
    self.table, self.spans = table, spans

  def __len__(self) -> int:
    """How many rows the shard has."""
    return len(self.spans)

  def __getitem__(self, i: int) -> np.ndarray:
    """Features [c m d] of all captions of row i."""
    first, last = self.spans[i]
    return self.table[first:last]


def write(
  part: pathlib.Path, rows: Mapping[str, Sequence], describe: Describe
) -> None:
  """Writes the features of all captions of a shard, float16.

  Args:
    part: the shard's directory.
    rows: its columns; `captions` if there are several an image, or `caption`.
    describe: computes them.
  """
  several = rows.get("captions", [None] * len(rows["caption"]))
  spans: dict[tuple[str, ...], tuple[int, int]] = {}
  count = 0
  found = [*map(_captions, several, rows["caption"])]
  for captions in found:
    if captions not in spans:
      spans[captions] = count, count + len(captions)
      count += len(captions)
  whose = np.array([spans[captions] for captions in found], np.int64)
  np.save(part / f"features{SPANS}", whose)
  every = [caption for captions in spans for caption in captions]
  with open(part / f"features{TABLE}", "wb") as file:
    for features in describe(every):  # More than memory may hold.
      if not file.tell():
        shape = count, *features.shape[1:]
        header = dict(descr="<f2", fortran_order=False, shape=shape)
        np.lib.format.write_array_header_1_0(file, header)
      file.write(features.astype("<f2").tobytes())


def chosen(row: dict[str, Any]) -> dict[str, Any]:
  """The row with the features [m d] of its caption alone, if it has any."""
  if "features" in row:
    captions = _captions(row.get("captions"), row["caption"])
    row["features"] = row["features"][captions.index(row["caption"])]
  return row


def _captions(several: str | None, caption: str) -> tuple[str, ...]:
  """All captions of an image, in the order of their features."""
  return (caption,) if several is None else tuple(several.split("\n"))
