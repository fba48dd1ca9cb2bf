"""How samples compare with the data: as images by features, text by words."""

import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vq_jax import evaluate, plugins
from vq_jax.data import tokens
from vq_jax.system import System
from vq_jax.train import neighbours
from vq_jax.train.request import Requests, read_tokens
from vq_jax.train.sampling import exported
from vq_jax.types import Batch

Config = Mapping[str, Any]
Painter = Callable[[Requests, int], Iterator[Batch]]


def measure(
  config: Config, workdir: pathlib.Path, system: System, images: Painter
) -> dict[str, float]:
  """Numbers of config.sample.count samples; of text more, and of captions.

  Args:
    config: of a prior. Without config.evaluate.features, pictures are not
      looked at, and a line says so.
    workdir: its run.
    system: what the samples are asked for.
    images: from `sampling.make_painter`.
  """
  # Asked as the training images are, in an order that depends on the seed.
  train = Requests(config, system, "train", shuffle=True)
  numbers: dict[str, float] = {}
  blank = getattr(exported(workdir / "tokenizer"), "blank", None)
  if blank is not None:
    numbers |= _words(config, images(train, config["sample"]["count"]), blank)
  if not config["evaluate"]["features"]:
    print("config.evaluate.features is empty: no picture is compared.")
    return numbers
  return numbers | _pictures(config, workdir, system, images, train)


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


def _pictures(
  config: Config,
  workdir: pathlib.Path,
  system: System,
  images: Painter,
  train: Requests,
) -> dict[str, float]:
  """Distances of features, nearest training images, agreement with captions."""
  section, size = config["evaluate"], config["sample"]["batch"]
  near = neighbours.options(section)
  name = section["features"]
  extractor = plugins.resolve("features", name)
  manifest = tokens.read_manifest(config["data"]["path"])
  real = plugins.build(
    "data", "source", manifest["data"], "the data of the tokens", "train"
  )
  agreement = section["agreement"] if system.text else ()
  asks = {split: Requests(config, system, split) for split in agreement}
  kept: list = []
  drawn = images(train, config["sample"]["count"])
  fakes = neighbours.keep(drawn, kept, near.samples)
  batches = itertools.chain(
    evaluate.featured(evaluate.originals(real, size), extractor, ("real",)),
    evaluate.featured(fakes, extractor, ("fake",)),
  )
  quality = evaluate.fold({"frechet": {}, "prdc": {}}, batches)
  numbers = {f"{name}_{key}": value for key, value in quality.items()}
  numbers |= neighbours.measure(
    near, kept, manifest["data"], workdir, extractor, size
  )
  for split, requests in asks.items():
    fakes = images(requests, len(requests.captions))
    found = evaluate.fold(
      {"retrieval": {}}, evaluate.featured(fakes, extractor, ("fake",))
    )
    numbers |= {f"{name}_{split}_{k}": v for k, v in found.items()}
  return numbers
