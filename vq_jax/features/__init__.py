"""Frozen networks that only measure: one file per network.

Each file has one function `extractor`, which takes the arguments of a config
section and gives a `Features`. That is all an evaluation needs to know:

  network = features.make("emoji")  # config.evaluate.features
  network = features.make({"name": "inception", "weights": "DIRECTORY"})
  found = network.images(pictures)  # uint8 [b h w 3] -> {key: [b d]}

| name | its arguments | `images` gives | also |
|---|---|---|---|
| emoji | none, it is shipped | pool [b 128], embedding [b 96] | texts |
| inception | weights | pool [b 2048], logits_unbiased [b 1008] | |
| clip | weights, merges | pool and embedding [b d] | texts, with merges |
| lpips | weights | pool [b d], d some 120 numbers a pixel | distances |

- `pool` is for distances between sets: FID, KID, precision and recall.
- `embedding` has unit length; its product with a row of `texts` is a cosine.
- `logits_unbiased` is for the Inception Score.

`weights` is the directory that `--mode=convert --family=NAME` wrote. Nothing is
downloaded: where it is missing, a FileNotFoundError names the official file and
the command. What depends on a network, stored statistics and result rows, notes
its `name` and `hash`; `source` says which official file it was converted from.
"""

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


def make(section: str | Mapping[str, Any]) -> Features:
  """The network of a config section, or of a name alone.

  Args:
    section: `name`, and the arguments of that file's `extractor`.

  Raises:
    FileNotFoundError: its weights are missing; says how to get them.
    ValueError: unknown name or argument, or weights that do not fit.
  """
  if isinstance(section, str):
    section = {"name": section}
  where = "config.evaluate.features"
  return plugins.build("features", "extractor", section, where)
