"""What images of a prior are asked to show: classes and captions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vq_jax import plugins
from vq_jax.data import tokens
from vq_jax.system import System
from vq_jax.train import stored

Config = Mapping[str, Any]


def read_tokens(config: Config, split: str) -> tokens.Source:
  """config.data -> the tokens of one split."""
  return plugins.build("data", "source", config["data"], "config.data", split)


def worded(config: Config, split: str, text: Any | None) -> "Worded":
  """The tokens of one split, for systems with that encoder.

  Raises:
    ValueError: they have no captions, or features of another encoder.
  """
  source = read_tokens(config, split)
  return Worded(source, text, stored.known(config, text))


class Worded:
  """A source of tokens with what stands for their captions.

  That is what an encoder reads, or its features where they are stored.
  """

  def __init__(self, source: tokens.Source, text: Any | None, known: bool):
    if text and "caption" not in source.columns:
      raise ValueError(
        "config.text needs captions, and the tokens have none; tokenize data"
        " that has captions, or leave config.text out."
      )
    self.source, self.text = source, text
    self._key = "features" if known else "words"

  def asked(self, system: System) -> tuple[str, ...]:
    """The keys of an example that the system reads, beside the ids."""
    told = ("label",) * bool(system.net.labels)
    return told + (self._key,) * bool(system.text)

  def __len__(self) -> int:
    """Number of images."""
    return len(self.source)

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Example i; for an encoder with `words` [m] or `features` [m d]."""
    return self._worded(self.source[i])

  def draw(self, i: int, rng: np.random.Generator) -> dict[str, Any]:
    """The same, with any of its captions."""
    return self._worded(self.source.draw(i, rng))

  @property
  def labels(self) -> np.ndarray | None:
    """Class ids [N], if there are any."""
    return self.source.labels

  def _worded(self, row: dict[str, Any]) -> dict[str, Any]:
    if self.text and self._key == "words":
      row["words"] = self.text.words([row["caption"]])[0]
    return row


class Requests:
  """What image i of a run shows: a function of the seed and i.

  Classes are drawn uniformly. Captions are those of config.sample.captions in
  turn, or of the split config.sample.split if there are none.
  """

  def __init__(
    self,
    config: Config,
    system: System,
    split: str | None = None,
    shuffle: bool = False,
  ):
    """`split`: ask for what the images of that split show instead, in turn."""
    section = config["sample"]
    self.system, self.seed = system, section["seed"]
    self.captions: Sequence[str] = ()
    self.labels: Sequence[int] = ()
    given = section["captions"] if system.text and not split else ()
    if given:
      self.captions = list(given)
    elif split or system.text:
      source = read_tokens(config, split or section["split"])
      columns, order = source.columns, np.arange(len(source))
      if shuffle:
        order = np.random.default_rng(self.seed).permutation(order)
      if system.text:
        self.captions = [str(caption) for caption in columns["caption"][order]]
      if system.net.labels:
        self.labels = columns["label"][order]

  def caption(self, i: int) -> str:
    """The caption of image i."""
    return self.captions[i % len(self.captions)]

  def label(self, i: int) -> int:
    """The class of image i."""
    if len(self.labels):
      return int(self.labels[i % len(self.labels)])
    rng = np.random.default_rng([self.seed, i])
    return int(rng.integers(self.system.net.labels))

  def name(self, i: int) -> str:
    """What image i shows, for people."""
    if self.system.text:
      return self.caption(i)
    return f"class {self.label(i)}"

  def __call__(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """Image numbers [b] -> what `system.condition` reads."""
    request = {}
    if self.system.net.labels:
      label = [self.label(int(i)) for i in index]
      request["label"] = np.array(label, np.int32)
    if self.system.text:
      captions = [self.caption(int(i)) for i in index]
      request["words"] = self.system.text.words(captions)
    return request
