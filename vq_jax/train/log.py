"""Numbers and pictures out: metrics.jsonl, TensorBoard events, progress."""

import json
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import tensorboardX
import tqdm
from PIL import Image


class Log:
  """Writes what a run reports into its directory; only process 0 writes."""

  def __init__(self, workdir: pathlib.Path):
    self.active = jax.process_index() == 0
    self.workdir = workdir
    if self.active:
      workdir.mkdir(parents=True, exist_ok=True)
      self._events = tensorboardX.SummaryWriter(str(workdir / "events"))
      path = workdir / "metrics.jsonl"
      drop_torn_row(path)
      self._rows = open(path, "ab", buffering=0)  # noqa: SIM115

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """One row of metrics.jsonl and one event a value."""
    if not self.active:
      return
    row = {"step": step, "time": round(time.time(), 3)}
    row |= {name: float(value) for name, value in values.items()}
    try:
      self._rows.write((json.dumps(row) + "\n").encode())
    except OSError as error:
      raise OSError(error.errno, error.strerror, self._rows.name) from error
    for name, value in values.items():
      self._events.add_scalar(name, float(value), step)

  def picture(self, step: int, name: str, image: np.ndarray) -> None:
    """uint8 [h w c] -> pictures/<name>.png (the newest) and an event."""
    if not self.active:
      return
    path = self.workdir / "pictures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(image).save(path)
    self._events.add_image(name, image, step, dataformats="HWC")

  def close(self) -> None:
    """Closes both files."""
    if self.active:
      self._rows.close()
      self._events.close()


def drop_torn_row(path: pathlib.Path) -> None:
  """Cuts off half a line, which a full disk or a lost machine leaves behind."""
  if path.is_file():
    whole = path.read_bytes().rfind(b"\n") + 1
    if whole < path.stat().st_size:
      os.truncate(path, whole)


def progress(iterable: Iterable, total: int, what: str, **kwargs: Any):
  """A bar with rate and time left; one line every 15 s where no one watches."""
  watched = sys.stderr.isatty()
  return tqdm.tqdm(
    iterable,
    total=total,
    desc=what,
    dynamic_ncols=watched,
    mininterval=0.5 if watched else 15.0,
    disable=jax.process_index() != 0,
    **kwargs,
  )
