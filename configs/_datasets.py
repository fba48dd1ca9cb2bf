"""config.data of the papers' data sets; docs/data.md says where to get them."""

from typing import Any

# arXiv:2111.14822 as released: a square from the middle quarter of what is left
# over, at 256 to 288 pixels, and 256 of them; never mirrored.
CUT = dict(crop="random", offset=(3 / 8, 5 / 8), zoom=(1.0, 9 / 8))
LISTS = dict(train="train.txt", validation="validation.txt")


def ffhq() -> dict[str, Any]:
  """70,000 faces, in one folder beside the lists of the two splits."""
  return dict(name="folder", path="data/ffhq", size=256, lists=LISTS)


def lsun_churches() -> dict[str, Any]:
  """126,000 churches."""
  return dict(name="tfds", builder="lsun/church_outdoor", path="data", size=256)


def lsun_bedroom() -> dict[str, Any]:
  """3 million bedrooms."""
  return dict(name="tfds", builder="lsun/bedroom", path="data", size=256)


def imagenet() -> dict[str, Any]:
  """1.28 million photographs of 1,000 classes."""
  return dict(
    name="tfds", builder="imagenet2012", path="data", size=256, transform=CUT
  )


def cub() -> dict[str, Any]:
  """Birds, with ten captions each."""
  return dict(
    name="folder", path="data/cub", size=256, lists=LISTS, transform=CUT
  )


def coco() -> dict[str, Any]:
  """82,783 photographs for training, with five captions each."""
  return dict(
    name="tfds",
    builder="coco_captions/2014",
    path="data",
    size=256,
    transform=CUT,
  )


def conceptual_captions() -> dict[str, Any]:
  """What img2dataset could still get of the web, a caption each."""
  return dict(name="webdataset", path="data/cc", size=256, transform=CUT)


def ithq() -> dict[str, Any]:
  """Pictures and captions of one's own: ITHQ-200M itself is not public."""
  return dict(name="webdataset", path="data/ithq", size=256, transform=CUT)


SETS = {
  function.__name__: function
  for function in (
    ffhq,
    lsun_churches,
    lsun_bedroom,
    imagenet,
    cub,
    coco,
    conceptual_captions,
    ithq,
  )
}


def section(name: str) -> dict[str, Any]:
  """config.data of that set.

  Raises:
    ValueError: there is no such set; lists them.
  """
  if name not in SETS:
    raise ValueError(
      f"There is no data set {name!r}; choose one of {', '.join(SETS)}."
    )
  return SETS[name]()
