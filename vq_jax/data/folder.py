"""Pictures in class folders, decoded when they are asked for.

Either split by hand, PATH/train/CLASS/*.jpg beside PATH/validation/CLASS/*.jpg
(or PATH/val), or PATH/CLASS/*.jpg alone, of which a hash of CLASS/NAME draws a
tenth for validation: a picture stays in its split when others come and go.

The caption of CLASS/NAME.jpg is the text of CLASS/NAME.txt, or else CLASS.
"""

import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vq_jax import plugins

SUFFIXES = frozenset(
  (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
TENTHS = {"train": range(1, 10), "validation": range(1)}  # Of the hash.
ALIASES = {"validation": "val"}  # As ImageNet's folders are called.
ENOUGH = 16  # Files read before their share of bad ones means something.

_LOG = logging.getLogger(__name__)
_LOG.setLevel(logging.WARNING)  # Also where the root logger is quieter.


class Source:
  """Random access to {"image": uint8 [size size 3], "label", "caption"}.

  A file that cannot be decoded is skipped: the next good one, in order, takes
  its place, so that what example i shows depends on the files alone.

  Attributes:
    classes: sorted class names; a label is an index into them.
    files: the pictures, relative to `root`, sorted.
    skipped: files that could not be decoded so far, in the order of discovery.
  """

  def __init__(
    self, root: pathlib.Path, files: list[str], classes: list[str], size: int
  ):
    self.root, self.files, self.classes = root, files, classes
    self.size = size
    self.skipped: list[str] = []
    self._good: set[int] = set()
    self._bad: set[int] = set()
    self._labels = {name: label for label, name in enumerate(classes)}

  def __len__(self) -> int:
    """How many files, bad ones included."""
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Example `index`, or the next good one after it.

    Raises:
      IndexError: there are fewer files.
      ValueError: more than half of the files read so far are bad.
    """
    count = len(self.files)
    if not -count <= index < count:
      raise IndexError(f"There are {count} pictures, no number {index}.")
    for i in range(index, index + count):
      i %= count
      if i in self._bad:
        continue
      try:
        example = self._read(self.files[i])
      # A damaged file makes Pillow raise nearly anything, and one of a million
      # must not end a run.
      except Exception as error:
        self._skip(i, error)
        continue
      self._good.add(i)
      self._weigh()
      return example
    raise ValueError(f"No picture in {self.root} can be decoded.")

  def _read(self, name: str) -> dict[str, Any]:
    label = pathlib.PurePath(name).parts[0]
    path = self.root / name
    text = path.with_suffix(".txt")
    caption = label
    if text.is_file():
      caption = " ".join(text.read_text("utf-8", errors="replace").split())
    return {
      "image": read_image(path, self.size),
      "label": self._labels[label],
      "caption": caption,
    }

  def _skip(self, i: int, error: Exception) -> None:
    """Remembers and tells of a bad file."""
    self._bad.add(i)
    self.skipped.append(self.files[i])
    bad, read = len(self._bad), len(self._bad) + len(self._good)
    reason = " ".join(str(error).split()) or type(error).__name__
    _LOG.warning(
      "%s cannot be decoded (%s); skipped, %d of %d files so far.",
      *(self.root / self.files[i], reason, bad, read),
    )
    self._weigh()

  def _weigh(self) -> None:
    """ValueError if more than half of the files read so far are bad."""
    bad, read = len(self._bad), len(self._bad) + len(self._good)
    if 2 * bad > read >= min(ENOUGH, len(self.files)):
      raise ValueError(
        f"{bad} of the {read} files read in {self.root} cannot be decoded, the"
        f" last one {self.skipped[-1]}."
      )


def source(split: str, *, path: str, size: int) -> Source:
  """The pictures of one split.

  Args:
    split: "train", "validation", or any folder in `path` that holds class
      folders, where there is a folder "train".
    path: the directory; see the module for what it holds.
    size: pixels a side; pictures are scaled to that on their shorter side, and
      the middle is cut out.

  Returns:
    A Source. Labels are of the class folders of the training split.

  Raises:
    FileNotFoundError: no such directory, or no picture in it.
    ValueError: no such split, a class that training does not know, or a size
      under 1.
  """
  if size < 1:
    raise ValueError(
      f"config.data.size is {size}; it counts pixels, 1 or more."
    )
  root = pathlib.Path(path)
  if not root.is_dir():
    raise FileNotFoundError(f"There is no folder of pictures {path}.")
  if (root / "train").is_dir():
    files, classes, root = _split_by_hand(root, split)
  else:
    tenths = _tenths(split)
    classes = list(_folders(root))
    files = [name for name in _files(root, classes) if _tenth(name) in tenths]
  if not files:
    raise FileNotFoundError(
      f"{root} holds no picture of the split {split!r}; they are looked for in"
      f" CLASS/NAME with a suffix among {', '.join(sorted(SUFFIXES))}."
    )
  return Source(root, files, classes, size)


def read_image(path: pathlib.Path, size: int) -> np.ndarray:
  """uint8 [size size 3], upright, what is transparent white.

  Raises whatever Pillow raises if the file is damaged.
  """
  with Image.open(path) as image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip.
      image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
      image = image.convert("RGBA")
      white = Image.new("RGBA", image.size, "white")
      image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    return np.asarray(
      ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    )


def _split_by_hand(
  root: pathlib.Path, split: str
) -> tuple[list[str], list[str], pathlib.Path]:
  """(files, classes, root) of a directory with a folder for each split."""
  splits = list(_folders(root))
  found = next((s for s in (split, ALIASES.get(split)) if s in splits), None)
  if found is None:
    raise ValueError(plugins.unknown(split, splits, f"{root} has no split"))
  classes = list(_folders(root / "train"))
  here = list(_folders(root / found))
  strange = [name for name in here if name not in classes]
  if strange:
    raise ValueError(
      f"{root / found} has a class {strange[0]!r} that {root / 'train'} lacks."
    )
  return _files(root / found, here), classes, root / found


def _folders(root: pathlib.Path) -> Iterator[str]:
  """Names of the visible folders, sorted."""
  for name in sorted(os.listdir(root)):
    if not name.startswith(".") and (root / name).is_dir():
      yield name


def _files(root: pathlib.Path, classes: list[str]) -> list[str]:
  """CLASS/NAME of the visible pictures, sorted."""
  return [
    f"{label}/{name}"
    for label in classes
    for name in sorted(os.listdir(root / label))
    if not name.startswith(".")
    and os.path.splitext(name)[1].lower() in SUFFIXES
  ]


def _tenth(name: str) -> int:
  """0..9, a hash of the name and nothing else."""
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 10


def _tenths(split: str) -> range:
  if split not in TENTHS:
    raise ValueError(plugins.unknown(split, TENTHS, "folder has no split"))
  return TENTHS[split]
