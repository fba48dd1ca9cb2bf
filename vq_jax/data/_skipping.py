"""Pictures that are read when they are asked for, some of which cannot be.

A bad one is skipped: the next good one, in order, takes its place, so that what
example i shows depends on the files alone, not on when a file was found bad.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vq_jax.data import _transforms

ENOUGH = 16  # Bad ones before their share means something.

_LOG = logging.getLogger(__name__)
_LOG.setLevel(logging.WARNING)  # Also where the root logger is quieter.


class Records(Protocol):
  """What a source must know to be a `Source`; safe to read from threads.

  Attributes:
    faults: what is known to be missing before anything is read, in words.
    classes: names of the labels; empty if there are none.

  Those that know the labels [N] without reading have them as `labels`.
  """

  faults: list[str]
  classes: list[str]

  def __len__(self) -> int:
    """How many there are, bad ones included."""

  def __getitem__(self, i: int) -> Mapping[str, Any]:
    """{"image": encoded bytes, "captions": any number, "label" if any}."""

  def name(self, i: int) -> str:
    """Where record i is, for a person."""


class Source:
  """Random access to {"image", "captions", "caption", and "label" if any}.

  Images are uint8 [size size 3]. `captions` has one caption a line, so that it
  can be stored as text; `caption` is one of them.

  Attributes:
    records: what is read.
    transform: what is made of a picture.
    max_bad: the share of bad ones that is put up with.
  """

  def __init__(
    self,
    records: Records,
    transform: _transforms.Transform,
    max_bad: float = 0.01,
  ):
    if not 0 <= max_bad <= 1:
      raise ValueError(
        f"config.data.max_bad is {max_bad}; it is a share, from 0 to 1."
      )
    self.records, self.transform, self.max_bad = records, transform, max_bad
    self._bad: dict[int, tuple[str, str]] = {}
    self._read = bytearray(len(records))
    for fault in records.faults:
      _LOG.warning("%s", fault)

  def __len__(self) -> int:
    """How many examples, bad ones included."""
    return len(self.records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Example i, or the next good one: its middle and its first caption.

    Raises:
      IndexError: there are fewer examples.
      ValueError: too many of them are bad; names them.
    """
    return self._first(i, None)

  def draw(self, i: int, rng: np.random.Generator) -> dict[str, Any]:
    """The same as training shows it: a random crop, a random caption."""
    return self._first(i, rng)

  @property
  def labels(self) -> np.ndarray | None:
    """Class ids [N], bad ones included, if they are known without reading."""
    return getattr(self.records, "labels", None)

  @property
  def skipped(self) -> list[str]:
    """Names of the bad ones met so far, in the order of discovery."""
    return [name for name, _ in list(self._bad.values())]

  def _first(self, i: int, rng: np.random.Generator | None) -> dict[str, Any]:
    i, count = int(i), len(self.records)
    if not -count <= i < count:
      raise IndexError(f"There are {count} pictures, no number {i}.")
    for k in range(i, i + count):
      k %= count
      if k in self._bad:
        continue
      try:
        record = self.records[k]
        image = _transforms.decode(record["image"], self.transform.size)
      # A damaged file makes Pillow raise nearly anything, and one of a million
      # must not end a run.
      except Exception as error:
        self._skip(k, error)
        continue
      self._read[k] = 1
      return self._show(record, image, rng)
    raise ValueError(f"None of the {count} pictures can be decoded.")

  def _show(
    self,
    record: Mapping[str, Any],
    image: Image.Image,
    rng: np.random.Generator | None,
  ) -> dict[str, Any]:
    example = {
      k: v for k, v in record.items() if k not in ("image", "captions")
    }
    example["image"] = self.transform(image, rng)
    example["captions"] = lines(record["captions"])
    example["caption"] = choose(example["captions"], rng)
    return example

  def _skip(self, i: int, error: Exception) -> None:
    """Remembers and tells of a bad one; ValueError if there are too many."""
    self._read[i] = 1
    fault = (self.records.name(i), reason(error))
    # Of threads that meet it at once, one tells.
    if self._bad.setdefault(i, fault) is not fault:
      return
    bad, read = len(self._bad), self._read.count(1)
    _LOG.warning(
      "%s cannot be decoded (%s); skipped, %d of %d so far.", *fault, bad, read
    )
    few = min(ENOUGH, len(self.records) / 2)
    if bad > max(few, self.max_bad * read):
      names = ", ".join(self.skipped)
      raise ValueError(
        f"{bad} of the {read} pictures read so far cannot be decoded, more than"
        f" config.data.max_bad = {self.max_bad} allows: {names}."
      )


def reason(error: Exception) -> str:
  """What went wrong, on one line."""
  return " ".join(str(error).split()) or type(error).__name__


def lines(captions: Iterable[str]) -> str:
  """Captions -> one text, a caption a line; empty ones are left out.

  White space counts as one blank; what UTF-8 cannot write becomes "?".
  """
  tidy = (
    " ".join(
      text.replace("\0", " ").encode("utf-8", "replace").decode().split()
    )
    for text in captions
  )
  return "\n".join(text for text in tidy if text)


def choose(captions: str, rng: np.random.Generator | None = None) -> str:
  """One line of `lines`: any of them, or the first if there is no `rng`."""
  found = captions.split("\n")
  return found[int(rng.integers(len(found))) if rng else 0]
