"""Labelled pictures that fit in memory."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """Pictures in memory: random access, and whole arrays.

  Attributes:
    images: uint8 [N h w c], h = w = size, c = 3.
    labels: class ids int32 [N], as the source defines them.
    styles: style ids int32 [N], indices into its STYLES.
    names: what is shown, such as "crab".
    captions: style and name, such as "fluent crab".
  """

  images: np.ndarray
  labels: np.ndarray
  styles: np.ndarray
  names: list[str]
  captions: list[str]

  def __len__(self) -> int:
    """How many pictures: N."""
    return len(self.images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One example, its image uint8 [h w c]."""
    return {
      "image": self.images[index],
      "label": int(self.labels[index]),
      "style": int(self.styles[index]),
      "caption": self.captions[index],
      "name": self.names[index],
    }
