"""Token sets: what is written is read, and nothing damaged."""

import json

import numpy as np
import pytest

from vq_jax.data import _loader, _shards, tokens
from vq_jax.train import request

CAPTIONS = ("crab", "", "Ärger\u2028“日本” 🦀\n", "a\tb" * 40)


def batches(ids, batch=4):
  examples = [
    {"ids": row, "label": i % 3, "caption": CAPTIONS[i % 4]}
    for i, row in enumerate(ids)
  ]
  return _loader.padded(examples, ("ids", "label", "caption"), batch)


def make(path, ids, vocab_size, split="train", size=4):
  """A whole token set of one split, as `--mode=tokenize` leaves it."""
  records = [
    _shards.write(path, f"{split}-{i}", batches(ids[i : i + size]), vocab_size)
    for i in range(0, len(ids), size)
  ]
  manifest = {
    "vocab_size": vocab_size,
    "grid": [2, 3],
    "splits": {split: records},
  }
  (path / tokens.MANIFEST).write_text(json.dumps(manifest))
  return records


@pytest.fixture
def written(tmp_path):
  """Ten images of six tokens, K = 16, in shards of four."""
  make(tmp_path, np.random.default_rng(0).integers(0, 16, (10, 6)), 16)
  return tmp_path


@pytest.mark.parametrize(
  ("vocab_size", "kind"),
  [(16, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)],
)
def test_tokens_round_trip(tmp_path, vocab_size, kind):
  ids = np.random.default_rng(0).integers(0, vocab_size, (10, 6))
  ids[3, 2] = vocab_size - 1
  records = make(tmp_path, ids, vocab_size)
  assert [record["rows"] for record in records] == [4, 4, 2]
  stored = np.load(tmp_path / records[0]["name"] / "ids.npy")
  assert stored.dtype == kind and stored.shape == (4, 6)
  source = tokens.source("train", path=str(tmp_path))
  assert len(source) == 10
  for i in [*range(10), -1]:
    example = source[i]
    np.testing.assert_array_equal(example["ids"], ids[i])
    assert example["ids"].dtype == np.int32
    assert example["label"] == i % 10 % 4 % 3
    assert example["caption"] == CAPTIONS[i % 10 % 4]
    assert type(example["caption"]) is str
  with pytest.raises(IndexError, match="10 rows, no number 10"):
    source[10]
  columns = source.columns
  assert set(columns) == {"ids", "label", "caption"}
  np.testing.assert_array_equal(columns["ids"], ids)
  assert columns["ids"].dtype == np.int32
  assert columns["label"].tolist() == [i % 4 % 3 for i in range(10)]
  assert source.labels.tolist() == columns["label"].tolist()
  assert columns["caption"].tolist() == [CAPTIONS[i % 4] for i in range(10)]
  counts = np.bincount(ids.ravel(), minlength=vocab_size)
  np.testing.assert_array_equal(source.counts(vocab_size), counts)


def test_whether_there_is_a_column_is_known_without_reading_it(
  written, monkeypatch
):
  columns = tokens.source("train", path=str(written)).columns
  monkeypatch.setattr(tokens.Source, "parts", None)  # What reads.
  assert "caption" in columns and "style" not in columns
  assert columns.get("style") is None


def test_more_shards_than_may_be_open(tmp_path, monkeypatch):
  monkeypatch.setattr(tokens, "OPEN", 2)
  ids = np.arange(24).reshape(12, 2)
  make(tmp_path, ids, 24, size=2)
  source = tokens.source("train", path=str(tmp_path))
  for i in (0, 11, 5, 3, 8, 0, 7, 11):
    np.testing.assert_array_equal(source[i]["ids"], ids[i])


def test_tokens_are_mapped_not_read(written):
  """A byte changed in the file, once it is open, is seen."""
  source = tokens.source("train", path=str(written))
  before = source[5]["ids"].copy()
  file = written / "train-4" / "ids.npy"
  with open(file, "r+b") as data:
    data.seek(-6 * 2 * 3, 2)  # Row 1 of 4 rows of six uint16.
    data.write(b"\7\0")
  assert source[5]["ids"][0] == 7 and before[0] != 7


def test_any_caption_of_an_image_is_drawn(tmp_path):
  rows = [{"ids": np.zeros(2, int), "captions": "a\nb", "caption": "a"}]
  batch = _loader.padded(rows, list(rows[0]), 1)
  record = _shards.write(tmp_path, "train-0", batch, 4)
  source = tokens.Source(tmp_path, [record])
  drawn = [source.draw(0, np.random.default_rng(s)) for s in range(20)]
  assert {row["caption"] for row in drawn} == {"a", "b"}
  assert source[0]["caption"] == "a"


def test_captions_may_all_be_empty(tmp_path):
  rows = [{"ids": np.arange(2), "caption": ""}] * 3
  batch = _loader.padded(rows, list(rows[0]), 2)
  record = _shards.write(tmp_path, "train-0", batch, 4)
  source = tokens.Source(tmp_path, [record])
  assert [source[i]["caption"] for i in range(3)] == ["", "", ""]


def test_a_prior_reads_any_caption_too(tmp_path):
  rows = [{"ids": np.zeros(2, int), "captions": "a\nbb", "caption": "a"}]
  batch = _loader.padded(rows, list(rows[0]), 1)
  record = _shards.write(tmp_path, "train-0", batch, 4)

  class Text:
    def words(self, captions):
      return np.array([[len(caption)] for caption in captions])

  source = request.Worded(
    tokens.Source(tmp_path, [record]), Text(), known=False
  )
  found = _loader.Shuffled(source, ("words",), 40, 0).rows(0)["words"]
  assert 8 < (found == 1).sum() < 32 and set(found.ravel()) == {1, 2}
  assert source[0]["words"] == [1]


def test_nothing_but_shards_and_manifest_is_left(written):
  (written / ".train-4.part").mkdir()  # As a killed run leaves it.
  ids = np.zeros((10, 6), int)
  make(written, ids, 16)
  names = sorted(path.name for path in written.iterdir())
  assert names == ["manifest.json", "train-0", "train-4", "train-8"]
  files = sorted(path.name for path in (written / "train-0").iterdir())
  columns = ["caption.ends.npy", "caption.utf8.npy", "ids.npy", "label.npy"]
  assert files == [*columns, _shards.RECORD]
  read = tokens.source("train", path=str(written))
  np.testing.assert_array_equal(read.columns["ids"], ids)


# --- Damage ---


@pytest.mark.parametrize("keep", [0, 10, 130, -1])
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_shard_is_named(written, keep, verify):
  file = written / "train-4" / "ids.npy"
  file.write_bytes(file.read_bytes()[:keep])
  with pytest.raises(ValueError, match=r"train-4/ids\.npy is damaged.* bytes"):
    tokens.source("train", path=str(written), verify=verify)


@pytest.mark.parametrize("name", ["ids.npy", "caption.ends.npy"])
def test_a_changed_byte_is_noticed_though_the_rest_was_read_before(
  written, name
):
  tokens.source("train", path=str(written))
  file = written / "train-4" / name
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(data)
  with pytest.raises(ValueError, match=rf"train-4/{name} is damaged.*checksum"):
    tokens.source("train", path=str(written))
  tokens.source("train", path=str(written), verify=False)


def test_a_missing_shard_is_named(written):
  (written / "train-8" / "label.npy").unlink()
  with pytest.raises(FileNotFoundError, match=r"train-8/label\.npy is missing"):
    tokens.source("train", path=str(written))


def test_a_missing_or_damaged_manifest_is_said(written):
  with pytest.raises(ValueError, match=r"no split 'test'.*'train'"):
    tokens.source("test", path=str(written))
  (written / tokens.MANIFEST).write_text("{")
  with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
    tokens.source("train", path=str(written))
  (written / tokens.MANIFEST).unlink()
  with pytest.raises(FileNotFoundError, match="no finished token set"):
    tokens.source("train", path=str(written))


@pytest.mark.parametrize(
  ("shards", "sentence"),
  [([], "'train' .* holds no image"), (["train-00000.npz"], "earlier version")],
)
def test_a_split_that_cannot_be_read_is_said(tmp_path, shards, sentence):
  manifest = {"vocab_size": 4, "grid": [1, 1], "splits": {"train": shards}}
  (tmp_path / tokens.MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match=sentence):
    tokens.source("train", path=str(tmp_path))


def test_a_token_out_of_range_is_never_written(tmp_path):
  ids = np.zeros((4, 6), int)
  ids[1, 2], ids[2, 0] = 16, 20
  with pytest.raises(
    ValueError, match=r"token 16 at position 2 of image 1 .*0\.\.15 \(2 such"
  ):
    make(tmp_path, ids, 16)
  assert not list(tmp_path.iterdir())
  with pytest.raises(ValueError, match=r"token -1 at position 1 of image 0"):
    _shards.check_ids(np.array([[0, -1]]), 4, "here")
