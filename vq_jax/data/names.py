"""Names of the embedded emoji, painted: text as pictures of one row of cells.

1,906 glyphs have as many names of 2 to 54 characters, such as "crab". A style
has no part in them. The class is the category, as in `data.emoji`.

Splits are by glyph, by the same hash, so that a name of the validation split is
nowhere in training; its words may be. There is no held-out split: a name that
lacks one style's picture there is a training name here.

Rows have one length. Names that are longer are left out: 69 of them by 32
characters, which 1,641 training and 196 validation names fit into.
"""

from typing import Any

from vq_jax import font, plugins
from vq_jax.data import emoji

SPLITS = ("train", "validation")
LABELS = emoji.LABELS
NUM_LABELS = emoji.NUM_LABELS


class Source:
  """Random access to {"image": uint8 [h w 3], "label", "caption"}.

  Attributes:
    names: what is written; the captions.
    labels: class ids.
    length: cells in a row; images have h = font.SIDE, w = length h.
  """

  def __init__(self, names: list[str], labels: list[int], length: int):
    self.names, self.labels, self.length = names, labels, length

  def __len__(self) -> int:
    """How many names."""
    return len(self.names)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One example."""
    name = self.names[index]
    image = font.paint(name, self.length)
    return {"image": image, "label": self.labels[index], "caption": name}


def source(split: str, *, length: int = 32) -> Source:
  """The names of one split, in Unicode's order.

  Args:
    split: "train" or "validation".
    length: characters in a row; longer names are left out.

  Returns:
    A Source.

  Raises:
    ValueError: no such split, no name that short, or a damaged installation.
  """
  if split not in SPLITS:
    raise ValueError(plugins.unknown(split, SPLITS, "names has no split"))
  rows = [
    (glyph["name"], LABELS.index(glyph["label"]))
    for glyph in emoji.glyphs()
    if len(glyph["name"]) <= length and _split(glyph) == split
  ]
  if not rows:
    raise ValueError(
      f"config.data.length is {length}; every name of {split} is longer."
    )
  names, labels = map(list, zip(*rows, strict=True))
  return Source(names, labels, length)


def _split(glyph: emoji.Glyph) -> str:
  """A glyph is in validation in all of its styles, or in none."""
  found = emoji.split_of(glyph, glyph["styles"][0])
  return "validation" if found == "validation" else "train"
