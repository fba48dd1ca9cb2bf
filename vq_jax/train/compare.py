"""How a set of images compares with a dataset, wherever the set is from."""

import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from vq_jax import evaluate, plugins
from vq_jax.features import Features
from vq_jax.train import extractor, neighbours, protocols, reference
from vq_jax.types import Batch

Config = Mapping[str, Any]
BY_EXAMPLE = "real_features"  # What a metric of NEEDS reads of the dataset.


def measure(
  config: Config,
  workdir: pathlib.Path,
  drawn: Iterator[Batch],
  count: int,
  where: str,
) -> dict[str, Any]:
  """All numbers of `count` images, and what they were compared with.

  Writes reference.safetensors, measured.png and neighbours.png.

  Args:
    config: with `data` and `evaluate`.
    workdir: where the files go.
    drawn: batches of fake [b h w c] in [0, 1], mask; not begun before the
      reference is there and fits.
    count: how many images they hold.
    where: whose images they are, for people.

  Returns:
    <features>_<number>; then protocol, features, features_hash, reference,
    reference_images (how many there are) and reference_examples (of how many
    the features were kept).

  Raises:
    ValueError: too few images, of another size, or another reference.
  """
  section = config["evaluate"]
  near = neighbours.options(section)
  protocol = protocols.of(config)
  protocols.check_samples(config, count, where)
  data, measuring = protocols.dataset(config), extractor.load(section)
  path = reference.place(section, workdir)
  source = reference.find(data, protocol.split, path)
  record = reference.describe(data, protocol, measuring, source)
  shared, batch = bool(section.get("reference", "")), section["batch"]
  real = reference.get(path, shared, record, source, measuring, batch)
  check_reference(section, protocol, real)
  warn_of_rank(count, real)
  kept: list = []
  fakes = neighbours.keep(sized(drawn, real, where), kept, near.samples)
  numbers = against(protocol, real, measuring, fakes, batch)
  if source is None:
    print(f"{data['name']} is not at hand: nearest neighbours are left out.")
  else:
    found = neighbours.measure(near, kept, data, workdir, measuring, batch)
    numbers |= found
  return numbers | {
    "protocol": section.get("protocol", ""),
    "features": measuring.name,
    "features_hash": measuring.hash,
    "reference": real.id,
    "reference_images": real.record["count"],
    "reference_examples": len(real.features),
  }


def against(
  protocol: protocols.Protocol,
  real: reference.Reference,
  measuring: Features,
  fakes: Iterator[Batch],
  batch: int,
) -> dict[str, float]:
  """Folds of the images and the reference: <features>_<number>."""
  states = evaluate.start(
    {"frechet": {}, "prdc": {"nearest_k": protocol.nearest_k}}
  )
  # The moments are of all images; other metrics read those that were kept.
  states["frechet"] = states["frechet"]._replace(real=real.moments)
  by_example = {
    name: state
    for name, state in states.items()
    if name != "frechet"
    and BY_EXAMPLE in plugins.resolve("metrics", name).NEEDS
  }
  states |= evaluate.feed(by_example, real.batches(batch))
  features = evaluate.featured(fakes, measuring, ("fake",))
  numbers = evaluate.finish(evaluate.feed(states, features))
  return {f"{measuring.name}_{key}": value for key, value in numbers.items()}


def check_reference(
  section: Mapping[str, Any],
  protocol: protocols.Protocol,
  real: reference.Reference,
) -> None:
  """ValueError unless it has as many images as the protocol asks for."""
  count = real.record["count"]
  if protocol.images and count != protocol.images:
    raise ValueError(
      f"The protocol {section['protocol']!r} compares with {protocol.images}"
      f" images; the split {protocol.split!r} of config.data has {count}."
    )


def warn_of_rank(count: int, real: reference.Reference) -> None:
  """Tells of a covariance that the samples cannot fill."""
  d = real.features.shape[1]
  if min(count, real.record["count"]) <= d:
    print(
      f"warning: {count} samples and {real.record['count']} reference images"
      f" for a covariance of {d} features: the Frechet distance is biased"
      " upwards; compare it with those of as many samples only.",
      file=sys.stderr,
    )


def sized(
  batches: Iterator[Batch], real: reference.Reference, where: str
) -> Iterator[Batch]:
  """Passes batches on; ValueError if images differ in size from the reference.

  Features would be computed of any size, and the filter that brings both to
  the same would be measured.
  """
  wanted = tuple(real.record["shape"])
  for batch in batches:
    found = batch["fake"].shape[1:]
    if found != wanted:
      raise ValueError(
        f"{where} has images of {' x '.join(map(str, found))}, the reference"
        f" {real.id} of {' x '.join(map(str, wanted))}."
      )
    yield batch
