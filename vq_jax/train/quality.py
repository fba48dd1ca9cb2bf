"""How samples compare with the data: as images by features, text by words."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vq_jax import evaluate
from vq_jax.features import Features
from vq_jax.system import System
from vq_jax.train import compare, protocols
from vq_jax.train.request import Requests, read_tokens
from vq_jax.train.sampling import exported
from vq_jax.types import Batch

Config = Mapping[str, Any]
Painter = Callable[[Requests, int], Iterator[Batch]]


def measure(
  config: Config,
  workdir: pathlib.Path,
  system: System,
  images: Painter,
  networks: Sequence[Features],
) -> dict[str, Any]:
  """Numbers of config.sample.count samples; of text more, and of captions.

  Args:
    config: of a prior.
    workdir: its run.
    system: what the samples are asked for.
    images: from `sampling.make_painter`.
    networks: from `compare.load`. Without any, pictures are not looked at, and
      a line says so.
  """
  # Asked as the images are that they are compared with, in an order that
  # depends on the seed.
  split = protocols.of(config).split
  asks = Requests(config, system, split, shuffle=True)
  numbers: dict[str, float] = {}
  blank = getattr(exported(workdir / "tokenizer"), "blank", None)
  if blank is not None:
    numbers |= _words(config, images(asks, config["sample"]["count"]), blank)
  if not networks:
    print("config.evaluate.features is empty: no picture is compared.")
    return numbers
  count = config["sample"]["count"]
  numbers |= compare.measure(
    config,
    workdir,
    networks,
    images(asks, count),
    count,
    str(workdir),
    captions=bool(asks.captions),
  )
  return numbers | _agreement(config, system, images, networks)


def _words(
  config: Config, batches: Iterator[Batch], blank: int
) -> dict[str, float]:
  """`metrics.words` of samples, and of validation texts as if they were drawn.

  What the latter share with training is what unseen texts of the kind do.
  """
  ids = {
    split: read_tokens(config, split).columns["ids"]
    for split in ("train", "validation")
  }
  lexicon = {"words": ids | {"blank": blank}}
  numbers = evaluate.fold(lexicon, batches)
  natural = evaluate.fold(lexicon, [{"ids": ids["validation"]}])
  key = "known_words"
  return numbers | {f"{key}_of_validation": natural[key]}


def _agreement(
  config: Config, system: System, images: Painter, networks: Sequence[Features]
) -> dict[str, float]:
  """How samples agree with the captions of config.evaluate.agreement."""
  readers = [network for network in networks if network.texts]
  splits = config["evaluate"]["agreement"] if system.text else ()
  if splits and not readers:
    print("No network reads captions: agreement with them is left out.")
    return {}
  asks = {split: Requests(config, system, split) for split in splits}
  numbers: dict[str, float] = {}
  for split, requests in asks.items():
    looks = [
      evaluate.Look(network, evaluate.start({"retrieval": {}}))
      for network in readers
    ]
    fakes = images(requests, len(requests.captions))
    numbers |= evaluate.seen(evaluate.look(looks, fakes, ("fake",)), split)
  return numbers
