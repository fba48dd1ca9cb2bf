"""How a set of images compares with a dataset, wherever the set is from."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vq_jax import evaluate, features, plugins
from vq_jax.features import Features
from vq_jax.train import neighbours, protocols, reference
from vq_jax.types import Batch

Config = Mapping[str, Any]
LEAST = {"kid": 1000, "inception_score": 10}  # Images in a set, or none of it.


def load(section: Mapping[str, Any]) -> list[Features]:
  """config.evaluate -> its networks, with what is in config.evaluate.weights.

  Raises:
    ValueError: a network is unknown, or its weights do not fit.
    FileNotFoundError: weights are missing; says how to get them.
  """
  where = section.get("weights", "weights")
  return [features.make(name, where) for name in protocols.networks(section)]


def measure(
  config: Config,
  workdir: pathlib.Path,
  networks: Sequence[Features],
  drawn: Iterator[Batch],
  count: int,
  where: str,
  captions: bool = False,
) -> dict[str, Any]:
  """All numbers of `count` images, and what they were compared with.

  Writes references, measured.png and neighbours.png.

  Args:
    config: with `data` and `evaluate`.
    workdir: where the files go.
    networks: what looks at the images, from `load`; the first finds neighbours.
    drawn: batches of fake [b h w c] in [0, 1], mask; not begun before the
      references are there and fit.
    count: how many images they hold.
    where: whose images they are, for people.
    captions: whether the batches say what the images shall show.

  Returns:
    <network>_<number>; then protocol, features, features_hash, reference (for
    several networks a,b), reference_images (how many there are) and
    reference_examples (of how many the features were kept).

  Raises:
    ValueError: too few images, of another size, or another reference.
  """
  check_networks(networks)
  section = config["evaluate"]
  near, batch = neighbours.options(section), section["batch"]
  protocol = protocols.of(config)
  protocols.check_samples(config, count, where)
  data, reals = protocols.dataset(config), []
  paths = [reference.place(section, workdir, one) for one in networks]
  source = reference.find(data, protocol.split, paths)
  for network, path in zip(networks, paths, strict=True):
    record = reference.describe(data, protocol, network, source)
    shared = bool(section.get("reference", ""))
    real = reference.get(path, shared, record, source, network, batch)
    check_reference(section, protocol, real)
    reals.append(real)
  looks = [
    begin(protocol, network, real, count, captions, batch)
    for network, real in zip(networks, reals, strict=True)
  ]
  if not any(states for _, states in looks):
    raise ValueError(f"{where} cannot be measured: no metric is left.")
  kept: list = []
  fakes = neighbours.keep(sized(drawn, reals[0], where), kept, near.samples)
  numbers = evaluate.seen(evaluate.look(looks, fakes, ("fake",)))
  if source is None:
    print(f"{data['name']} is not at hand: nearest neighbours are left out.")
  else:
    found = neighbours.measure(near, kept, data, workdir, networks[0], batch)
    numbers |= found
  return numbers | {
    "protocol": section.get("protocol", ""),
    **told(networks),
    "reference": ",".join(real.id for real in reals),
    "reference_images": reals[0].record["count"],
    "reference_examples": reals[0].kept,
  }


def told(networks: Sequence[Features]) -> dict[str, str]:
  """What a row says of its networks: their names and hashes, of several a,b."""
  return {
    "features": ",".join(network.name for network in networks),
    "features_hash": ",".join(network.hash for network in networks),
  }


def begin(
  protocol: protocols.Protocol,
  network: Features,
  real: reference.Reference,
  count: int,
  captions: bool,
  batch: int,
) -> evaluate.Look:
  """A network with its metrics, which have seen the reference."""
  options = {
    "frechet": real.statistics,
    "prdc": {"nearest_k": protocol.nearest_k},
  }
  names = possible(
    protocol.metrics[network.name],
    min(count, real.kept),
    captions and network.texts is not None,
  )
  states = evaluate.start({name: options.get(name, {}) for name in names})
  # The statistics are of all images; other metrics read those that were kept.
  by_example = {
    name: state
    for name, state in states.items()
    if name != "frechet" and real.examples.keys() & set(_needs(name))
  }
  seen = evaluate.feed(by_example, real.batches(batch))
  return evaluate.Look(network, states | seen)


def possible(names: Sequence[str], count: int, captions: bool) -> list[str]:
  """Those metrics that can be had; a line says which cannot, and why."""
  found = []
  for name in names:
    if count < LEAST.get(name, 0):
      print(f"{name} needs {LEAST[name]} images, not {count}: it is left out.")
    elif "text_embedding" in _needs(name) and not captions:
      print(f"{name} needs captions, and a network for them: it is left out.")
    else:
      found.append(name)
  return found


def _needs(name: str) -> Sequence[str]:
  return plugins.resolve("metrics", name).NEEDS


def check_networks(networks: Sequence[Features]) -> None:
  """ValueError unless there are some, and all of them compare sets."""
  if not networks:
    raise ValueError(
      "config.evaluate.features is empty; it names what images are compared by:"
      f" {', '.join(plugins.available('features'))}."
    )
  for network in networks:
    if network.distances:
      raise ValueError(
        f"The features {network.name!r} compare pairs of images, not sets: they"
        " measure tokenizers."
      )


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
