"""--mode=evaluate of images that are there: a folder, or an .npz."""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vq_jax.data import _ahead, _transforms, folder
from vq_jax.train import compare, protocols, row
from vq_jax.types import Batch

Config = Mapping[str, Any]
ARRAY = "arr_0"  # Of an .npz, as ADM's evaluation suite has it.


def evaluate(config: Config, workdir: pathlib.Path, path: pathlib.Path) -> None:
  """Writes metrics.json of the images at `path`, and pictures.

  Args:
    config: its `data` are compared with, as its `evaluate` says.
    workdir: a directory for the results.
    path: a folder of pictures, or an .npz with uint8 [N h w 3] as `arr_0`.

  Raises:
    ValueError: the images cannot be compared; says by which number.
    FileNotFoundError: there are none.
  """
  if (workdir / "checkpoints").exists():
    raise ValueError(
      f"{workdir} is a run, and has metrics of its own; choose another"
      " --workdir for those of --images."
    )
  config = protocols.applied(config)
  workdir.mkdir(parents=True, exist_ok=True)
  size = config["evaluate"]["batch"]
  count, arrays = read(path, size)
  drawn = batches(arrays, size, str(path))
  networks = compare.load(config["evaluate"])
  numbers = compare.measure(config, workdir, networks, drawn, count, str(path))
  told = {"images": str(path), "samples": count}
  row.write(workdir, {**numbers, **told})


def read(path: pathlib.Path, size: int) -> tuple[int, Iterator[np.ndarray]]:
  """How many images there are, and they: uint8 [b h w 3], b <= size.

  In the order of their names, or of the array. They are read when they are
  asked for.

  Raises:
    ValueError: an array of other things.
    FileNotFoundError: no such file or folder, or no picture in it.
  """
  if path.is_dir():
    return _folder(path, size)
  if not path.is_file():
    raise FileNotFoundError(f"--images: there is no folder or file {path}.")
  return _npz(path, size)


def batches(
  arrays: Iterator[np.ndarray], size: int, where: str
) -> Iterator[Batch]:
  """Images uint8 [b h w 3] -> fake [size h w 3] in [0, 1], mask.

  Raises:
    ValueError: after the last one, if no byte of any of them is above 1.
  """
  most = 0
  for array in arrays:
    most = max(most, array.max(initial=0))
    padded = array[np.minimum(np.arange(size), len(array) - 1)]
    yield {
      "fake": padded.astype(np.float32) / 255.0,
      "mask": np.arange(size) < len(array),
    }
  if most <= 1:
    raise ValueError(
      f"{where} has no value above {most}: its images were scaled to [0, 1]"
      " before they became bytes; scale them to 0..255."
    )


def _folder(path: pathlib.Path, size: int) -> tuple[int, Iterator[np.ndarray]]:
  files = sorted(
    pathlib.Path(root, name)
    for root, _, names in os.walk(path)
    for name in names
    if os.path.splitext(name)[1].lower() in folder.SUFFIXES
  )
  if not files:
    raise FileNotFoundError(
      f"{path} holds no picture; known are"
      f" {', '.join(sorted(folder.SUFFIXES))}."
    )

  def arrays() -> Iterator[np.ndarray]:
    shape = _pixels(files[0]).shape
    with _ahead.threads() as run:
      for first in range(0, len(files), size):
        chunk = files[first : first + size]
        found = list(run(_pixels, chunk))
        for file, image in zip(chunk, found, strict=True):
          if image.shape != shape:
            raise ValueError(
              f"{file} has {image.shape[0]} x {image.shape[1]} pixels, the"
              f" first picture {shape[0]} x {shape[1]}."
            )
        yield np.stack(found)

  return len(files), arrays()


def _pixels(file: pathlib.Path) -> np.ndarray:
  """A picture, uint8 [h w 3]."""
  try:
    return np.asarray(_transforms.decode(file.read_bytes(), 0))
  except Exception as error:  # Pillow raises nearly anything.
    raise ValueError(f"{file} cannot be decoded ({error}).") from error


def _npz(path: pathlib.Path, size: int) -> tuple[int, Iterator[np.ndarray]]:
  """Read as a stream: 50,000 images of 256 x 256 are 10 GB."""
  with _member(path) as member:
    shape, dtype = _header(path, member)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
      raise ValueError(
        f"{ARRAY} of {path} is {dtype} {list(shape)}{_some(member, dtype)};"
        " images are uint8 [N h w 3], 0 to 255."
      )
  count, one = shape[0], int(np.prod(shape[1:]))

  def arrays() -> Iterator[np.ndarray]:
    with _member(path) as member:
      _header(path, member)
      for first in range(0, count, size):
        b = min(size, count - first)
        data = member.read(b * one)
        if len(data) < b * one:
          raise ValueError(f"{path} ends before its last image.")
        yield np.frombuffer(data, np.uint8).reshape(b, *shape[1:])

  return count, arrays()


def _some(member: Any, dtype: np.dtype) -> str:
  """Between which values the first numbers lie."""
  if dtype.kind not in "fiu":
    return ""
  first = np.frombuffer(member.read(4096 * dtype.itemsize), dtype)
  return f", its first values {first.min():.3g} to {first.max():.3g}"


@contextlib.contextmanager
def _member(path: pathlib.Path) -> Iterator[Any]:
  """The array of an .npz, opened."""
  try:
    with zipfile.ZipFile(path) as archive:
      names = [name.removesuffix(".npy") for name in archive.namelist()]
      if ARRAY not in names:
        raise ValueError(f"{path} has no array {ARRAY}; it has {names}.")
      with archive.open(f"{ARRAY}.npy") as member:
        yield member
  except zipfile.BadZipFile as error:
    raise ValueError(f"{path} is no whole .npz ({error}).") from error


def _header(
  path: pathlib.Path, member: Any
) -> tuple[tuple[int, ...], np.dtype]:
  """Shape and type; the member then stands at the first value."""
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  version = np.lib.format.read_magic(member)
  if version not in readers:
    raise ValueError(f"{path} has an array of the unknown version {version}.")
  shape, fortran, dtype = readers[version](member)
  if fortran or dtype.hasobject:
    raise ValueError(
      f"{ARRAY} of {path} is {dtype} in Fortran order: save it with np.savez."
      if fortran
      else f"{ARRAY} of {path} holds Python objects."
    )
  return shape, dtype
