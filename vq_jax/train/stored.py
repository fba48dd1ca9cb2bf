"""Text features that `--mode=tokenize` computes once, for all steps to come.

Of frozen encoders alone: those of a learnt one change with every update.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vq_jax import plugins, system
from vq_jax.data import _features, tokens
from vq_jax.ops.sharding import BATCH_AXES

Config = Mapping[str, Any]


def build(section: Config) -> Any | None:
  """config.tokenize.text -> an encoder; None if no name is given.

  Raises:
    ValueError: it is not a frozen one.
  """
  if not section.get("name"):
    return None
  text = plugins.build("text", "Encoder", section, "config.tokenize.text")
  if not system.frozen_text(text):
    raise ValueError(
      f"config.tokenize.text.name is {section['name']!r}, which is trained with"
      " its prior: its features change and cannot be stored; leave it out."
    )
  return text


def make_describe(text: Any, mesh: Mesh, batch: int) -> _features.Describe:
  """Captions -> features [b m d], on all devices of the mesh."""
  params = system.module_of(text).load(text)
  params = jax.device_put(params, NamedSharding(mesh, P()))
  place = NamedSharding(mesh, P(BATCH_AXES))
  run = jax.jit(lambda p, words: text.apply({"params": p}, words))

  def describe(captions: Sequence[str]) -> Iterator[np.ndarray]:
    for i in range(0, len(captions), batch):
      words = text.words(captions[i : i + batch])
      # The last ones come again until they fill a batch.
      whole = np.resize(words, (batch, text.length))
      features = run(params, jax.device_put(whole, place))
      yield np.asarray(features)[: len(words)]

  return describe


def identity(text: Any) -> dict[str, Any]:
  """What features depend on: an encoder's fields, and what its files hold."""
  module = system.module_of(text)
  names = {field.name for field in dataclasses.fields(text)}
  fields = {name: getattr(text, name) for name in names - {"parent", "name"}}
  for name in module.FILES:
    with open(fields[name], "rb") as file:
      fields[name] = hashlib.file_digest(file, "sha256").hexdigest()
  kind = module.__name__.rpartition(".")[-1]
  return {"name": kind, **dict(sorted(fields.items()))}


def known(config: Config, text: Any | None) -> bool:
  """Whether the tokens of config.data hold the features of an encoder.

  Raises:
    ValueError: they hold those of another one; says what differs.
  """
  if text is None or not system.frozen_text(text):
    return False
  path = config["data"]["path"]
  told = tokens.read_manifest(path).get("text")
  if told is None:
    return False
  own = identity(text)
  differ = [key for key in {**own, **told} if own.get(key) != told.get(key)]
  if differ:
    raise ValueError(
      f"The text features in {path} are of another encoder than config.text"
      f" (other {', '.join(differ)}); make that the encoder they are of, or"
      " tokenize again."
    )
  return True
