"""The training images nearest to samples: numbers, and a picture."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vq_jax import evaluate, pictures, pipeline, plugins
from vq_jax.features import Features, lpips
from vq_jax.metrics import neighbours
from vq_jax.types import Batch

Source = Sequence[Mapping[str, Any]]
ROWS = 12  # Samples in neighbours.png.


class Options(NamedTuple):
  """config.evaluate.neighbours.

  Attributes:
    samples: how many samples, and validation images, are looked up.
    k: training images beside each sample in the picture.
    lpips_weights: file with LPIPS weights, which then measure the distance;
      empty takes the features of config.evaluate. A picture has 120 numbers a
      pixel then: choose few samples.
  """

  samples: int = 128
  k: int = 7
  lpips_weights: str = ""


def options(section: Mapping[str, Any]) -> Options:
  """config.evaluate -> Options; ValueError names a key that is unknown."""
  section = section.get("neighbours", {})
  return plugins.call(Options, section, "config.evaluate.neighbours")


def keep(
  batches: Iterator[Batch], kept: list[np.ndarray], count: int
) -> Iterator[Batch]:
  """Passes batches on; their first `count` images, uint8, stay in `kept`."""
  for batch in batches:
    images = pipeline.to_uint8(batch["fake"])[batch["mask"]]
    kept.extend(images[: max(count - len(kept), 0)])
    yield batch


def measure(
  options: Options,
  samples: Sequence[np.ndarray],
  data: Mapping[str, Any],
  workdir: pathlib.Path,
  network: Features,
  batch: int,
) -> dict[str, float]:
  """Median distances to the nearest training image.

  Writes neighbours.png, and measured.png, the first of the samples themselves.

  Samples that are nearer than validation images were memorised; validation
  images are of the same kind and were never seen.

  Args:
    options: see there.
    samples: uint8 images [h w c].
    data: section of the source of the images that were trained on.
    workdir: where the picture goes.
    network: what measures distances, unless the options name LPIPS.
    batch: images at a time.

  Returns:
    <features>_nearest_distance and <features>_nearest_distance_of_validation.
  """
  if options.lpips_weights:
    network = lpips.extractor(options.lpips_weights)
  train, validation = (
    plugins.build("data", "source", data, "the data of the tokens", split)
    for split in ("train", "validation")
  )
  drawn = [{"image": image, "caption": ""} for image in samples]
  states = []
  for source in (drawn, validation):
    state = neighbours.init(options.k, squared=bool(options.lpips_weights))
    limit = options.samples
    for rows in _rows("fake", network, source, batch, limit):
      state = neighbours.update(state, rows)
    states.append(state)
  for rows in _rows("real", network, train, batch):
    states = [neighbours.update(state, rows) for state in states]
  picture = draw(samples[:ROWS], train, states[0])
  Image.fromarray(picture).save(workdir / "neighbours.png")
  columns = pictures.SHEET
  sheet = pictures.grid(np.stack(samples[: columns**2]), columns)
  Image.fromarray(sheet).save(workdir / "measured.png")
  medians = [neighbours.compute(s)["nearest_distance"] for s in states]
  key = f"{network.name}_nearest_distance"
  return dict(zip((key, f"{key}_of_validation"), medians, strict=True))


def draw(
  samples: Sequence[np.ndarray], train: Source, state: neighbours.State
) -> np.ndarray:
  """A row a sample: the sample, then its neighbours, distances below them."""
  distances = neighbours.distances(state)
  images, labels = [], []
  for i, sample in enumerate(samples):
    images += [sample, *(train[int(j)]["image"] for j in state.index[i])]
    labels += ["sample", *(f"{value:.3g}" for value in distances[i])]
  columns = 1 + state.index.shape[1]
  scale = max(64 // images[0].shape[1], 1)  # There must be room for numbers.
  return pictures.labelled(np.stack(images), labels, columns, scale)


def _rows(
  kind: str,
  network: Features,
  source: Source,
  batch: int,
  limit: int | None = None,
) -> Iterator[dict]:
  """Batches of <kind>_features, mask."""
  for rows in evaluate.originals(source, batch, limit):
    found = network.images(pipeline.to_uint8(rows["real"]))["pool"]
    yield {f"{kind}_features": np.asarray(found), "mask": rows["mask"]}
