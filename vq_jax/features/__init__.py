"""Frozen networks that only measure: one file per network.

Each file has one function `extractor(weights) -> Features`, and that is all an
evaluation needs to know:

  network = features.make("emoji")  # config.evaluate.features
  network = features.make("inception", "weights")  # config.evaluate.weights
  found = network.images(pictures)  # uint8 [b h w 3] -> {key: [b d]}

| name | `images` gives | also |
|---|---|---|
| emoji | pool [b 128], embedding [b 96] | texts; it is shipped |
| inception | pool [b 2048], logits_unbiased [b 1008] | |
| clip | pool and embedding [b d] | texts, with a merges.txt |
| lpips | pool [b d], d some 120 numbers a pixel | distances |

- `pool` is for distances between sets: FID, KID, precision and recall.
- `embedding` has unit length; its product with a row of `texts` is a cosine.
- `logits_unbiased` is for the Inception Score.

Of each network there is a directory in `weights`, weights/inception and so on,
which --mode=convert wrote. Nothing is downloaded: where it is missing, a
FileNotFoundError names the official file and the command. What depends on a
network, stored statistics and result rows, notes its `name` and `hash`, and
`source` says which official file it was converted from.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vq_jax import plugins
from vq_jax.types import Array


class Features(NamedTuple):
  """A frozen network and its weights, as an evaluation sees it.

  All functions compute in full float32 whatever the device, and give arrays on
  the device, sharded over examples as what they are given. An example's numbers
  do not depend on its batch. Images of another type or shape are a ValueError.

  Attributes:
    name: its file in vq_jax/features.
    hash: SHA-256 of its parameters, names and float32 values: equal hashes
      give equal features, whatever file they came in.
    source: the provenance of a converted network: family, file, sha256 of the
      official file, options; empty if it was not recorded.
    images: uint8 [b h w 3] -> {key: float32 [b d]}, always with "pool".
    texts: captions -> float32 [b d] of unit length; None if it reads none.
    distances: uint8 [b h w 3], twice -> float32 [b], how different the images
      of a pair look; None if the network compares sets only.
  """

  name: str
  hash: str
  source: Mapping[str, Any]
  images: Callable[[Array], dict[str, Array]]
  texts: Callable[[Sequence[str]], Array] | None = None
  distances: Callable[[Array, Array], Array] | None = None


def make(name: str, weights: str = "weights") -> Features:
  """One network.

  Args:
    name: a file of vq_jax/features.
    weights: the directory that holds a directory of that name; for what is
      shipped, anything.

  Raises:
    FileNotFoundError: its weights are missing; says how to get them.
    ValueError: an unknown name, or weights that do not fit.
  """
  module = plugins.resolve("features", name)
  return module.extractor(str(pathlib.Path(weights, name)))
