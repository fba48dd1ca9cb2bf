"""Repaints parts of a picture, or more canvas around it: --mode=edit.

Tokens that the mask touches are drawn anew around the others, which are held
(arXiv:2111.12701, section 4.5); outpainting is the same with a picture that is
transparent around its middle.
"""

import copy
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image, ImageOps

from vq_jax import pictures, pipeline
from vq_jax.system import System, build_system
from vq_jax.train import actions, frozen, layout
from vq_jax.train.request import Requests
from vq_jax.train.sampling import make_painter

Config = Mapping[str, Any]
COLUMNS = 8  # Of the picture that shows all variants.


def edit(
  config: Config,
  workdir: pathlib.Path,
  mesh: Mesh,
  *,
  image: str | None,
  mask: str | None = None,
  caption: str | None = None,
  label: int | None = None,
) -> None:
  """Writes edits/NAME/*.png, config.sample.count variants, and edits/NAME.png.

  Args:
    config: of the run.
    workdir: a trained prior.
    mesh: of devices.
    image: path of a picture; what is not opaque is painted.
    mask: path of a picture of the same proportions, scaled to its size; what is
      white is painted.
    caption: what it shall show, for a system with text.
    label: likewise, for a system with classes; None draws one per variant.

  Raises:
    ValueError: the run, the picture, the mask or the request does not fit.
    OSError: a file cannot be read.
  """
  if config["stage"] != "prior":
    raise ValueError(
      "A picture is edited by a prior; this run is of config.stage ="
      f" {config['stage']!r}."
    )
  layout.check_batch(config["sample"]["batch"], mesh, "config.sample.batch")
  pixels, change = read(image, mask)
  system = build_system(frozen.local_paths(config, workdir))
  tokenizer, weights = pipeline.load_tokenizer(workdir / "tokenizer")
  factor = tokenizer.factor
  grid = check(pixels, change, system.net.grid, factor)
  config = narrow(config, system, grid, caption)
  requests = Requests(config, system)
  if label is not None:
    requests.labels = (check_label(system, label),)

  filled, distance = grow(pixels, ~change, 2 * factor)
  encode = jax.jit(lambda x: pipeline.encode(tokenizer, weights, x))
  touched = cells(change, factor).reshape(-1)
  prior = pipeline.build_prior(config["prior"])
  ids = np.asarray(encode(filled[None]))[0]
  known = np.where(touched, prior.vocab_size, ids)

  _, params = actions.load(config, workdir, mesh)
  params = params | frozen.load(system)
  paint = make_painter(config, workdir, mesh, system, prior, params, known)
  variants = []
  for batch in paint(requests, config["sample"]["count"]):
    variants.extend(pipeline.to_uint8(batch["fake"])[batch["mask"]])
  new = paste(filled, np.stack(variants), distance, factor // 2)
  save(workdir / "edits", pathlib.Path(image).stem, new, pixels, change)


def read(image: str | None, mask: str | None) -> tuple[np.ndarray, np.ndarray]:
  """Two files -> pixels uint8 [h w 3], what shall change bool [h w]."""
  if not image:
    raise ValueError("--mode=edit needs --image=FILE, the picture to change.")
  with Image.open(image) as file:
    rgba = np.asarray(ImageOps.exif_transpose(file).convert("RGBA"))
  change = rgba[..., 3] < 255
  if mask:
    with Image.open(mask) as file:
      grey = file.convert("L")
    (h, w), sides = change.shape, grey.size
    if sides[0] * h != sides[1] * w:
      raise ValueError(
        f"The image is {w} x {h} pixels, the mask {sides[0]} x {sides[1]}; give"
        " them the same proportions."
      )
    grey = grey.resize((w, h), Image.Resampling.NEAREST)
    change = change | (np.asarray(grey) > 127)
  return rgba[..., :3], change


def check(
  pixels: np.ndarray, change: np.ndarray, window: tuple[int, int], factor: int
) -> tuple[int, int]:
  """The picture's grid of tokens; ValueError if it cannot be edited."""
  h, w = pixels.shape[:2]
  least = [side * factor for side in window]
  if h % factor or w % factor or h < least[0] or w < least[1]:
    raise ValueError(
      f"The image is {w} x {h} pixels; this run edits sizes that are multiples"
      f" of {factor}, at least {least[1]} x {least[0]}: crop or enlarge it, or"
      " put it on a larger transparent canvas."
    )
  if not change.any():
    raise ValueError(
      "Nothing is to be changed: give --mask=FILE with white where to paint, or"
      " an --image with transparent parts."
    )
  if cells(change, factor).all():
    raise ValueError(
      "The mask touches every token of the image, so that nothing of it would"
      " be seen; make it smaller, or use --mode=sample."
    )
  return h // factor, w // factor


def narrow(
  config: Config, system: System, grid: tuple[int, int], caption: str | None
) -> Config:
  """The config that draws this size, with this caption."""
  if bool(system.text) != (caption is not None):
    raise ValueError(
      "This run paints captions: say what to paint with --caption=TEXT."
      if system.text
      else "--caption needs a run with config.text; this one has none."
    )
  config = copy.deepcopy(dict(config))
  config["sample"] |= {"canvas": grid, "captions": (caption,)}
  return config


def check_label(system: System, label: int) -> int:
  """The label; ValueError if the net has no such class."""
  if not 0 <= label < system.net.labels:
    raise ValueError(
      f"--label is {label}, but this run has {system.net.labels} classes,"
      " counted from 0."
    )
  return label


def cells(change: np.ndarray, factor: int) -> np.ndarray:
  """Pixels bool [h w] -> which tokens have one of them [h' w']."""
  h, w = (side // factor for side in change.shape)
  return change.reshape(h, factor, w, factor).any((1, 3))


def grow(
  pixels: np.ndarray, known: np.ndarray, rings: int
) -> tuple[np.ndarray, np.ndarray]:
  """Continues the known part of a picture, so that nothing else is seen of it.

  Each ring of pixels around it takes the mean of its neighbours in the ring
  before; what is farther off, the mean of all that is known.

  Args:
    pixels: uint8 [h w 3].
    known: bool [h w], somewhere True.
    rings: how many.

  Returns:
    uint8 [h w 3]; steps to the nearest known pixel int [h w], 0 at a known one,
    rings + 1 beyond the last ring.
  """
  filled = np.where(known[..., None], pixels, 0).astype(np.float32)
  distance = np.where(known, 0, rings + 1)
  for ring in range(1, rings + 1):
    have = (distance < ring)[..., None]
    count = neighbours(have.astype(np.float32))
    new = ~have[..., 0] & (count[..., 0] > 0)
    mean = neighbours(filled * have) / np.maximum(count, 1.0)
    filled[new] = mean[new]
    distance[new] = ring
  filled[distance > rings] = pixels[known].mean(0)
  return np.round(filled).astype(np.uint8), distance


def neighbours(x: np.ndarray) -> np.ndarray:
  """The sum over the four pixels around each, [h w c] -> [h w c]."""
  x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  return x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]


def paste(
  old: np.ndarray, new: np.ndarray, distance: np.ndarray, seam: int
) -> np.ndarray:
  """The old picture where it is known, fading into the new ones around it.

  Args:
    old: uint8 [h w 3], continued beyond its known part.
    new: uint8 [b h w 3].
    distance: steps to the nearest known pixel [h w]; there nothing changes.
    seam: steps over which old fades into new, from its known part outwards.

  Returns:
    uint8 [b h w 3].
  """
  share = np.clip(distance / (seam + 1), 0.0, 1.0)[..., None]
  return np.round(share * new + (1.0 - share) * old).astype(np.uint8)


def save(
  folder: pathlib.Path,
  name: str,
  new: np.ndarray,
  old: np.ndarray,
  change: np.ndarray,
) -> None:
  """Every variant as a PNG, and one picture of the task and all of them."""
  (folder / name).mkdir(parents=True, exist_ok=True)
  for index, image in enumerate(new):
    Image.fromarray(image).save(folder / name / f"{index:06d}.png")
  task = pictures.veil(old[None], change[None])
  shown = np.concatenate([task, new])
  page = pictures.grid(shown, pictures.fitting(shown, COLUMNS))
  actions.save_picture(folder / f"{name}.png", page)
  print(f"{folder / name}: {len(new)} variants; all of them in {name}.png")
