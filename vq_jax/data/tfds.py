"""Any TFDS data set, by random access; TensorFlow is not needed.

The data set must have been prepared once, as ArrayRecord:

  import tensorflow_datasets as tfds
  birds = tfds.builder("caltech_birds2011", file_format="array_record")
  birds.download_and_prepare()

Some builders need TensorFlow for that one step.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vq_jax import plugins
from vq_jax.data import _skipping, _transforms

# Where a data set has what: split -> its split of TFDS, and the features, "/"
# between the levels. lsun is lsun/church_outdoor, lsun/bedroom and so on.
SPLITS = {"train": "train", "validation": "validation"}
BUILDERS = {
  "imagenet2012": dict(label="label"),
  "lsun": dict(),
  "coco_captions": dict(
    caption="captions/text",
    splits={"train": "train", "validation": "val", "test": "test"},
  ),
  "caltech_birds2011": dict(
    label="label", splits={"train": "train", "validation": "test"}
  ),
}


class Records:
  """Examples of a data source, their images still encoded.

  Attributes:
    data: what `builder.as_data_source` returned.
    where: data set and split, for people.
    classes: names of the labels; empty if there are none.
    faults: none.
  """

  def __init__(
    self,
    data: Any,
    where: str,
    classes: list[str],
    *,
    image: str,
    label: str,
    caption: str,
  ):
    self.data, self.where, self.classes = data, where, classes
    self.image, self.label, self.caption = image, label, caption
    self.faults: list[str] = []

  def __len__(self) -> int:
    """How many there are."""
    return len(self.data)

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Record i."""
    example = self.data[i]
    record = {"image": _find(example, self.image), "captions": []}
    if self.label:
      record["label"] = int(_find(example, self.label))
    if self.caption:
      texts = np.ravel(np.asarray(_find(example, self.caption), object))
      record["captions"] = [_text(text) for text in texts]
    elif self.classes:
      record["captions"] = [self.classes[record["label"]]]
    return record

  def name(self, i: int) -> str:
    """Data set and number."""
    return f"{self.where}[{i}]"


def source(
  split: str,
  *,
  builder: str,
  path: str,
  size: int,
  splits: Mapping[str, str] | None = None,
  image: str = "image",
  label: str | None = None,
  caption: str | None = None,
  transform: Mapping[str, Any] | None = None,
  max_bad: float = 0.01,
) -> _skipping.Source:
  """The pictures of one split.

  Args:
    split: "train", "validation", or another key of `splits`.
    builder: name of the data set, with its config: "lsun/bedroom".
    path: TFDS's data_dir.
    size: pixels a side.
    splits: split -> a split of TFDS, such as "train[5%:]".
    image: feature that holds the picture.
    label: feature that holds the class; "" reads none. Without, as BUILDERS
      knows, or none.
    caption: feature that holds one or more captions, likewise. Without any the
      name of the class is the caption.
    transform: arguments of `_transforms.Transform`.
    max_bad: the share of pictures that may be bad.

  Returns:
    A Source.

  Raises:
    ValueError: the library is missing, there is no such split or feature, or
      the data set is not prepared for random access.
  """
  made = _transforms.make(size, transform or {})
  known = BUILDERS.get(builder.partition("/")[0].partition(":")[0], {})
  splits = splits or known.get("splits", SPLITS)
  if split not in splits:
    raise ValueError(plugins.unknown(split, splits, f"{builder} has no split"))
  label = known.get("label", "") if label is None else label
  caption = known.get("caption", "") if caption is None else caption
  prepared = _prepared(builder, path)
  features = prepared.info.features
  for feature in filter(None, (image, label, caption)):
    _feature(features, feature, builder)
  data = _open(prepared, splits[split], image, builder)
  names = (
    getattr(_feature(features, label, builder), "names", ()) if label else ()
  )
  records = Records(
    data,
    f"{builder}/{splits[split]}",
    list(names or ()),
    image=image,
    label=label,
    caption=caption,
  )
  return _skipping.Source(records, made, max_bad)


def _prepared(name: str, path: str) -> Any:
  """The builder of a data set that lies in `path`."""
  try:
    import tensorflow_datasets as library
  except ImportError as error:
    raise ValueError(
      "The data of TFDS need its library: pip install 'vq_jax[data]'."
    ) from error
  try:
    builder = library.builder(name, data_dir=path)
  except library.core.DatasetNotFoundError as error:
    raise ValueError(
      f"TFDS knows no data set {name!r}, and {path} holds none."
    ) from error
  if not builder.info.splits:
    raise ValueError(
      f"{path} holds no prepared {name!r}; prepare it with TFDS, with"
      ' file_format="array_record".'
    )
  return builder


def _open(builder: Any, split: str, image: str, name: str) -> Any:
  """A data source whose pictures stay encoded."""
  import tensorflow_datasets as library

  decoders: Any = library.decode.SkipDecoding()
  for key in reversed(image.split("/")):
    decoders = {key: decoders}
  try:
    return builder.as_data_source(split=split, decoders=decoders)
  except (NotImplementedError, ValueError, KeyError) as error:
    raise ValueError(
      f"{name!r} cannot be read at random: {_skipping.reason(error)}"
    ) from error


def _feature(features: Any, name: str, builder: str) -> Any:
  """The feature of that name, through dicts and sequences of dicts."""
  for key in name.split("/"):
    inner = getattr(features, "feature", features)  # Of a sequence.
    if key not in inner:
      raise ValueError(plugins.unknown(key, inner, f"{builder} has no feature"))
    features = inner[key]
  return features


def _find(example: Any, name: str) -> Any:
  """The value of a feature; of a sequence of dicts, one of each."""
  for key in name.split("/"):
    example = (
      [row[key] for row in example]
      if isinstance(example, (list, tuple))
      else example[key]
    )
  return example


def _text(value: Any) -> str:
  """Bytes, as TFDS stores text, or a str."""
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
