"""config.evaluate.features with its weights, read once and hashed."""

from collections.abc import Mapping
from typing import Any

from vq_jax import features, plugins

FILES = ("weights", "merges")  # Keys that name what a network is made of.


def load(section: Mapping[str, Any]) -> features.Features:
  """config.evaluate -> its network.

  Raises:
    ValueError: no or unknown features, or such as compare pairs of images.
    FileNotFoundError: its weights are missing; says how to get them.
  """
  if not section["features"]:
    raise ValueError(
      "config.evaluate.features is empty; it names what images are compared by:"
      f" {', '.join(plugins.available('features'))}."
    )
  files = {key: section[key] for key in FILES if section.get(key)}
  network = features.make({"name": section["features"], **files})
  if network.distances:
    raise ValueError(
      f"The features {network.name!r} compare pairs of images, not sets."
    )
  return network
