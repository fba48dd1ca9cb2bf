"""Pictures in folders, decoded when they are asked for.

Pictures lie in class folders, PATH/CLASS/NAME.jpg, or all of them directly in
PATH, without classes. Any folder inside a class folder belongs to it.

Splits, the first of these that applies:
  by list    PATH/LIST, a text file with one picture a line, for every split;
  by hand    PATH/train/... beside PATH/validation/... (or PATH/val/...);
  by hash    of CLASS/NAME, which draws a tenth for validation: a picture stays
             in its split when others come and go.

Captions of PATH/CLASS/NAME.jpg: the lines of PATH/CLASS/NAME.txt, or else those
of PATH/captions.jsonl, with rows {"file": "CLASS/NAME.jpg", "caption": "..."}
where the caption may be a list, or else CLASS, or else none. Of splits by hand
PATH is PATH/train and so on here.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vq_jax import plugins
from vq_jax.data import _skipping, _transforms

SUFFIXES = frozenset(
  (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
TENTHS = {"train": range(1, 10), "validation": range(1)}  # Of the hash.
ALIASES = {"validation": "val"}  # As ImageNet's folders are called.
CAPTIONS = "captions.jsonl"


class Records:
  """Files, unread.

  Attributes:
    root: the directory.
    files: the pictures, relative to `root`, sorted.
    classes: sorted class names; a label is an index into them. Empty if the
      pictures are in no class folders.
    captions: of CAPTIONS, by file.
    faults: none.
  """

  def __init__(
    self,
    root: pathlib.Path,
    files: list[str],
    classes: list[str],
    captions: Mapping[str, list[str]],
  ):
    self.root, self.files, self.classes = root, files, classes
    self.captions, self.faults = captions, []
    self._labels = {name: label for label, name in enumerate(classes)}

  def __len__(self) -> int:
    """How many files."""
    return len(self.files)

  @property
  def labels(self) -> np.ndarray | None:
    """Class ids [N], if there are classes."""
    if not self.classes:
      return None
    labels = [self._labels[name.split("/")[0]] for name in self.files]
    return np.array(labels, np.int32)

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Record i."""
    name = self.files[i]
    record = {"image": (self.root / name).read_bytes()}
    label = name.split("/")[0]
    if self.classes:
      record["label"] = self._labels[label]
    record["captions"] = self._captions(name, label)
    return record

  def name(self, i: int) -> str:
    """The file."""
    # Names of files need not be UTF-8; what people read must be.
    path = os.fsencode(self.root / self.files[i])
    return path.decode("utf-8", "replace")

  def _captions(self, name: str, label: str) -> list[str]:
    text = (self.root / name).with_suffix(".txt")
    if text.is_file():
      return text.read_text("utf-8-sig", errors="replace").split("\n")
    if name in self.captions:
      return self.captions[name]
    return [label] if self.classes else []


def source(
  split: str,
  *,
  path: str,
  size: int,
  lists: Mapping[str, str] | None = None,
  transform: Mapping[str, Any] | None = None,
  max_bad: float = 0.01,
) -> _skipping.Source:
  """The pictures of one split.

  Args:
    split: "train", "validation", a key of `lists`, or any folder in `path` that
      holds pictures, where there is a folder "train".
    path: the directory; see the module for what it holds.
    size: pixels a side.
    lists: split -> a file with its pictures, relative to `path`.
    transform: arguments of `_transforms.Transform`.
    max_bad: the share of files that may be bad.

  Returns:
    A Source. Labels are of all class folders, or of the training split's where
    there is a folder "train".

  Raises:
    FileNotFoundError: no such directory, no such list, or no picture.
    ValueError: no such split, a class that training does not know, pictures
      inside and outside of class folders, or a damaged list.
  """
  made = _transforms.make(size, transform or {})
  root = pathlib.Path(path)
  if not root.is_dir():
    raise FileNotFoundError(f"There is no folder of pictures {path}.")
  if lists:
    files, classes = _listed(root, split, lists)
  elif (root / "train").is_dir():
    files, classes, root = _split_by_hand(root, split)
  else:
    tenths = _tenths(split)
    files, classes = _pictures(root)
    files = [name for name in files if _tenth(name) in tenths]
  if not files:
    raise FileNotFoundError(
      f"{root} holds no picture of the split {split!r}; they are looked for in"
      f" CLASS/NAME or NAME with a suffix among {', '.join(sorted(SUFFIXES))}."
    )
  records = Records(root, files, classes, _read_captions(root))
  return _skipping.Source(records, made, max_bad)


def _listed(
  root: pathlib.Path, split: str, lists: Mapping[str, str]
) -> tuple[list[str], list[str]]:
  """(files, classes) of a split that has its own list; in the list's order."""
  if split not in lists:
    raise ValueError(plugins.unknown(split, lists, "config.data.lists has no"))
  named = {key: _read_list(root / file) for key, file in lists.items()}
  everything = sorted({name for names in named.values() for name in names})
  return named[split], _classes(root, everything)


def _read_list(file: pathlib.Path) -> list[str]:
  """One name a line; they need not be UTF-8, as those of files need not."""
  text = file.read_text("utf-8-sig", errors="surrogateescape")
  return [name for name in map(str.strip, text.split("\n")) if name]


def _split_by_hand(
  root: pathlib.Path, split: str
) -> tuple[list[str], list[str], pathlib.Path]:
  """(files, classes, root) of a directory with a folder for each split."""
  splits = [
    name
    for name in sorted(os.listdir(root))
    if not name.startswith(".") and (root / name).is_dir()
  ]
  found = next((s for s in (split, ALIASES.get(split)) if s in splits), None)
  if found is None:
    raise ValueError(plugins.unknown(split, splits, f"{root} has no split"))
  files, here = _pictures(root / found)
  _, classes = _pictures(root / "train") if found != "train" else (files, here)
  strange = [name for name in here if name not in classes]
  if strange:
    raise ValueError(
      f"{root / found} has a class {strange[0]!r} that {root / 'train'} lacks."
    )
  if files and bool(here) != bool(classes):
    raise ValueError(
      f"{root / 'train'} has class folders and {root / found} has not."
    )
  return files, classes, root / found


def _pictures(root: pathlib.Path) -> tuple[list[str], list[str]]:
  """(files, classes) below `root`, both sorted."""
  files = sorted(_walk(root), key=lambda name: name.split("/"))
  return files, _classes(root, files)


def _classes(root: pathlib.Path, files: list[str]) -> list[str]:
  """The class folders of the files; none if no file lies in one."""
  loose = [name for name in files if "/" not in name]
  if loose and len(loose) < len(files):
    raise ValueError(
      f"{root} has pictures in folders and others, such as {loose[0]}, that are"
      " in none: put all of them into class folders, or none."
    )
  return [] if loose else sorted({name.split("/")[0] for name in files})


def _walk(root: pathlib.Path) -> Iterator[str]:
  """The visible pictures, relative to `root`, in no order."""
  for folder, inner, names in os.walk(root, followlinks=True):
    inner[:] = [name for name in inner if not name.startswith(".")]
    where = pathlib.Path(folder).relative_to(root)
    for name in names:
      picture = os.path.splitext(name)[1].lower() in SUFFIXES
      if picture and not name.startswith("."):
        yield (where / name).as_posix()


def _read_captions(root: pathlib.Path) -> dict[str, list[str]]:
  """CAPTIONS -> captions by file; rows of one file add up."""
  found: dict[str, list[str]] = {}
  if not (root / CAPTIONS).is_file():
    return found
  with open(root / CAPTIONS, encoding="utf-8-sig", errors="replace") as rows:
    for number, row in enumerate(rows, 1):
      if not row.strip():
        continue
      try:
        values = json.loads(row)
        name, texts = values["file"], values["caption"]
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
          f"{root / CAPTIONS}, line {number}: a row is"
          ' {"file": "CLASS/NAME.jpg", "caption": "..."}.'
        ) from error
      texts = [texts] if isinstance(texts, str) else texts
      found.setdefault(name, []).extend(map(str, texts))
  return found


def _tenth(name: str) -> int:
  """0..9, a hash of the name and nothing else."""
  return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) % 10


def _tenths(split: str) -> range:
  if split not in TENTHS:
    raise ValueError(plugins.unknown(split, TENTHS, "folder has no split"))
  return TENTHS[split]
