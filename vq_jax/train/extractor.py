"""config.evaluate.features with its weights, read once and hashed."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vq_jax import plugins, weights
from vq_jax.types import Params


class Extractor(NamedTuple):
  """A frozen network that only measures.

  Attributes:
    name: a file of vq_jax/features.
    params: its weights.
    hash: SHA-256 of the weights: of two numbers with different ones, neither
      says anything about the other.
    image_features: (params, images [b h w c] in [0, 1]) -> features [b d],
      embedding [b e].
    text_embedding: (params, captions) -> [b e]; None if there is no text tower.
  """

  name: str
  params: Params
  hash: str
  image_features: Callable[..., Any]
  text_embedding: Callable[..., Any] | None

  def load(self) -> Params:
    """The weights, as the modules of vq_jax/features give them."""
    return self.params


def load(section: Mapping[str, Any]) -> Extractor:
  """config.evaluate -> its features; `weights` names their file.

  Raises:
    ValueError: no or unknown features, or their file is not named.
    FileNotFoundError: there is no such file.
  """
  name, file = section["features"], section.get("weights", "")
  if not name:
    raise ValueError(
      "config.evaluate.features is empty; it names what images are compared by:"
      f" {', '.join(plugins.available('features'))}."
    )
  module = plugins.resolve("features", name)
  if not hasattr(module, "image_features"):
    raise ValueError(f"{module.__name__} gives no features of single images.")
  (path, *_) = inspect.signature(module.load).parameters.values()
  if not file and path.default is path.empty:
    raise ValueError(
      f"The features {name!r} need a file of weights; set"
      " config.evaluate.weights to it."
    )
  params = module.load(file) if file else module.load()
  text = getattr(module, "text_embedding", None)
  return Extractor(name, params, digest(params), module.image_features, text)


def digest(params: Params) -> str:
  """SHA-256 of names, shapes, types and values of a tree of arrays."""
  found = hashlib.sha256()
  for name, leaf in sorted(weights.flatten(params).items()):
    array = np.asarray(leaf, order="C")
    found.update(f"{name} {array.shape} {array.dtype}\n".encode())
    found.update(array.data)
  return found.hexdigest()
