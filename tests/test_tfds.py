"""TFDS: real data sets on disk where the library is, a stand-in elsewhere."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from vq_jax.data import tfds

NAMES = ["ant", "bee"]


def picture(red):
  file = io.BytesIO()
  Image.new("RGB", (12, 8), (red, 0, 0)).save(file, "PNG")
  return file.getvalue()


class Dict(dict):
  """Features of one level."""


class Sequence:
  """A feature whose `feature` is repeated."""

  def __init__(self, feature):
    self.feature = feature


class Source:
  """Random access by int alone, as TFDS's."""

  def __init__(self, rows):
    self.rows = rows

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, i):
    assert type(i) is int
    return self.rows[i]


@pytest.fixture
def library(monkeypatch):
  """The part of the library that is called, over rows in memory."""
  label = types.SimpleNamespace(names=NAMES)
  rows = [
    {
      "image": picture(i),
      "label": np.int64(i % 2),
      "captions": {
        "text": np.array([b"a \xff", "b\u00fc".encode()], object),
        "id": np.arange(2),
      },
    }
    for i in range(6)
  ]
  features = Dict(
    image=object(), label=label, captions=Sequence(Dict(text=0, id=0))
  )

  class Builder:
    info = types.SimpleNamespace(features=features, splits={"train": 6})

    def as_data_source(self, split, decoders):
      assert decoders == {"image": "encoded"}
      if split == "tfrecord":
        raise NotImplementedError("no\n random access")
      return Source(rows[:4] if split == "train" else rows[4:])

  class Missing(Exception):
    pass

  def builder(name, data_dir):
    if name == "nothing":
      raise Missing
    made = Builder()
    if data_dir == "empty":
      made.info = types.SimpleNamespace(features=features, splits={})
    return made

  found = types.SimpleNamespace(
    builder=builder,
    core=types.SimpleNamespace(DatasetNotFoundError=Missing),
    decode=types.SimpleNamespace(SkipDecoding=lambda: "encoded"),
  )
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", found)


def read(split="train", builder="caltech_birds2011", path="here", **options):
  return tfds.source(split, builder=builder, path=path, size=4, **options)


def reds(source):
  return [int(example["image"][0, 0, 0]) for example in source]


@pytest.mark.usefixtures("library")
def test_a_bad_picture_is_skipped_by_its_number(caplog):
  birds = read()
  birds.records.data.rows[1]["image"] = b"\xff\xd8\xff torn"
  birds.records.data.rows[2]["image"] = b""
  assert reds(birds) == [0, 3, 3, 3]
  name = "caltech_birds2011/train"
  assert birds.skipped == [f"{name}[1]", f"{name}[2]"]
  assert f"{name}[1] cannot be decoded" in caplog.text


@pytest.mark.usefixtures("library")
def test_known_data_sets_need_no_features():
  birds = read()
  assert reds(birds) == [0, 1, 2, 3]
  assert [e["label"] for e in birds] == [0, 1, 0, 1]
  assert birds[np.int64(1)]["caption"] == "bee"
  assert reds(read("validation")) == [4, 5]
  coco = read("validation", "coco_captions/2014")
  assert coco[0]["captions"] == "a \ufffd\nb\u00fc" and "label" not in coco[0]
  church = read(builder="lsun/church_outdoor")
  assert church[0]["caption"] == "" and "label" not in church[0]
  assert church.records.name(3) == "lsun/church_outdoor/train[3]"


@pytest.mark.usefixtures("library")
def test_what_cannot_be_is_one_sentence():
  with pytest.raises(ValueError, match=r"'test'.*train, validation"):
    read("test")
  with pytest.raises(ValueError, match=r"no feature 'lable'.*'label'"):
    read(label="lable")
  with pytest.raises(ValueError, match=r"no feature 'txt'.*'text'"):
    read(caption="captions/txt")
  with pytest.raises(ValueError, match="knows no data set 'nothing'"):
    read(builder="nothing")
  with pytest.raises(ValueError, match=r"empty holds no .*array_record"):
    read(path="empty")
  with pytest.raises(ValueError, match="at random: no random access"):
    read(splits={"train": "tfrecord"})


def test_without_the_library_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with pytest.raises(ValueError, match=r"pip install 'vq_jax\[data\]'"):
    read()


# A builder must live in a module of its own, beside which TFDS looks for data.
BUILDER = """
import io
import tensorflow_datasets as tfds
from PIL import Image


class VqJaxToy(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict({
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["ant", "bee"]),
        "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
      })
    )

  def _split_generators(self, manager):
    return {"train": self._generate_examples(range(8)),
            "test": self._generate_examples(range(8, 10))}

  def _generate_examples(self, numbers):
    for i in numbers:
      file = io.BytesIO()
      Image.new("RGB", (12, 8), (i, 0, 0)).save(file, "PNG")
      texts = [{"text": f"{k} of {i} \\u732b"} for k in range(i % 3)]
      yield i, {"image": io.BytesIO(file.getvalue()), "label": i % 2,
                "captions": texts}
"""


@pytest.mark.filterwarnings("ignore")
def test_a_real_data_set_without_tensorflow(tmp_path, monkeypatch):
  pytest.importorskip("tensorflow_datasets")
  pytest.importorskip("array_record")
  (tmp_path / "toys").mkdir()
  (tmp_path / "toys" / "__init__.py").write_text("")
  (tmp_path / "toys" / "vq_jax_toy.py").write_text(BUILDER)
  monkeypatch.syspath_prepend(tmp_path)
  from toys import vq_jax_toy

  made = vq_jax_toy.VqJaxToy(
    data_dir=str(tmp_path / "data"), file_format="array_record"
  )
  made.download_and_prepare()
  options = dict(
    builder="vq_jax_toy",
    path=str(tmp_path / "data"),
    label="label",
    caption="captions/text",
    splits={"train": "train", "validation": "test", "half": "train[:50%]"},
  )
  shown = list(read(**options))
  order = reds(shown)
  assert sorted(order) == list(range(8))
  for i, example in zip(order, shown, strict=True):
    assert example["label"] == i % 2
    told = [f"{k} of {i} \u732b" for k in range(i % 3)]
    assert example["captions"] == "\n".join(told)
  assert read(**options).records.classes == ["ant", "bee"]
  assert sorted(reds(read("validation", **options))) == [8, 9]
  assert len(read("half", **options)) == 4
  assert reds(read(**options)) == order
  assert "tensorflow" not in sys.modules
  (file,) = (tmp_path / "data").rglob("*train.array_record*")
  file.write_bytes(b"")
  with pytest.raises(ValueError, match=r"pictures read so far .*train\[0\]"):
    reds(read(**options))
