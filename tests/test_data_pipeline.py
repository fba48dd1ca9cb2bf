"""Loader and token sets: every example once, nothing damaged read."""

import collections
import json

import numpy as np
import pytest

from vq_jax.data import _loader, tokens


def numbers(count):
  return [{"i": np.int32(i), "word": f"w{i}"} for i in range(count)]


def loader(count, batch, seed=0):
  return _loader.Shuffled(numbers(count), ("i", "word"), batch, seed)


@pytest.mark.parametrize(
  ("count", "batch"), [(10, 4), (3, 8), (8, 8), (1, 2), (7, 3)]
)
def test_every_example_once_an_epoch_though_batches_span_epochs(count, batch):
  epochs = 6
  shuffled = loader(count, batch)
  steps = -(-count * epochs // batch)
  stream = np.concatenate([shuffled.indices(s) for s in range(steps)])
  for epoch in range(epochs):
    part = stream[epoch * count : (epoch + 1) * count]
    assert sorted(part) == list(range(count))


def test_epochs_and_seeds_are_in_different_orders():
  order = lambda seed, step: loader(50, 50, seed).indices(step).tolist()  # noqa: E731
  orders = [order(seed, step) for seed in (0, 1) for step in (0, 1)]
  orders.append(list(range(50)))
  assert len({tuple(o) for o in orders}) == 5


def test_the_order_has_no_memory():
  """Asking in any order, or again, or elsewhere, gives the same batch."""
  forward = [loader(10, 4).indices(s) for s in range(12)]
  shuffled = loader(10, 4)
  for step in (11, 0, 5, 5, 3, 10):
    np.testing.assert_array_equal(shuffled.indices(step), forward[step])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_shares_of_processes_are_the_batch(processes):
  shuffled = loader(10, 8)
  whole = shuffled.rows(3)
  shares = [shuffled.rows(3, p, processes) for p in range(processes)]
  assert {len(share["i"]) for share in shares} == {8 // processes}
  np.testing.assert_array_equal(
    np.concatenate([share["i"] for share in shares]), whole["i"]
  )
  words = [word for share in shares for word in share["word"]]
  assert words == whole["word"]


def test_rows_belong_together():
  rows = loader(10, 4).rows(1)
  assert rows["word"] == [f"w{i}" for i in rows["i"]]


def test_no_data_is_said():
  with pytest.raises(ValueError, match="training data is empty"):
    loader(0, 4)


@pytest.mark.parametrize("count", [1, 4, 7, 8, 9])
@pytest.mark.parametrize("limit", [None, 5, 100])
def test_padded_covers_every_example_once(count, limit):
  seen = collections.Counter()
  for rows in _loader.padded(numbers(count), ("i", "word"), 4, limit):
    assert len(rows["i"]) == len(rows["word"]) == len(rows["mask"]) == 4
    seen.update(rows["i"][rows["mask"]].tolist())
  assert seen == dict.fromkeys(range(min(count, limit or count)), 1)


# --- Token sets ---


def batches(ids, batch=4):
  examples = [
    {"ids": row, "label": i % 3, "caption": f"number {i}"}
    for i, row in enumerate(ids)
  ]
  return _loader.padded(examples, ("ids", "label", "caption"), batch)


def make(path, ids, vocab_size, split="train", **options):
  """A whole token set of one split, as `--mode=tokenize` leaves it."""
  names = tokens.write(str(path), split, batches(ids), vocab_size, **options)
  manifest = {
    "vocab_size": vocab_size,
    "grid": [2, 3],
    "splits": {split: names},
  }
  (path / tokens.MANIFEST).write_text(json.dumps(manifest))
  return names


@pytest.fixture
def written(tmp_path):
  """Ten images of six tokens, K = 16, in shards of four."""
  ids = np.random.default_rng(0).integers(0, 16, (10, 6))
  names = make(tmp_path, ids, 16, shard_size=4)
  assert names == [f"train-0000{i}.npz" for i in range(3)]
  return tmp_path


@pytest.mark.parametrize(
  ("vocab_size", "kind"),
  [(16, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)],
)
def test_tokens_round_trip(tmp_path, vocab_size, kind):
  ids = np.random.default_rng(0).integers(0, vocab_size, (10, 6))
  ids[3, 2] = vocab_size - 1
  names = make(tmp_path, ids, vocab_size, shard_size=4)
  assert len(names) == 3
  with np.load(tmp_path / names[0]) as shard:
    assert shard["ids"].dtype == kind and shard["ids"].shape == (4, 6)
  source = tokens.source("train", path=str(tmp_path))
  assert len(source) == 10
  for i in range(10):
    example = source[i]
    np.testing.assert_array_equal(example["ids"], ids[i])
    assert example["ids"].dtype == np.int32
    assert example["label"] == i % 3
    assert example["caption"] == f"number {i}"
    assert type(example["caption"]) is str


def test_nothing_but_shards_and_manifest_is_left(written):
  names = sorted(path.name for path in written.iterdir())
  assert names == ["manifest.json", *(f"train-0000{i}.npz" for i in range(3))]


@pytest.mark.parametrize("keep", [0, 10, 400, -1])
def test_a_truncated_shard_is_named(written, keep):
  file = written / "train-00001.npz"
  file.write_bytes(file.read_bytes()[:keep])
  with pytest.raises(ValueError, match=r"train-00001\.npz is damaged"):
    tokens.source("train", path=str(written))


def test_a_flipped_byte_is_noticed(written):
  file = written / "train-00001.npz"
  data = bytearray(file.read_bytes())
  data[data.index(b"ids.npy") + 200] ^= 0xFF
  file.write_bytes(data)
  with pytest.raises(ValueError, match=r"train-00001\.npz is damaged"):
    tokens.source("train", path=str(written))


def test_a_missing_shard_is_named(written):
  (written / "train-00002.npz").unlink()
  with pytest.raises(FileNotFoundError, match=r"train-00002\.npz is missing"):
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


def test_a_split_without_images_is_said(tmp_path):
  manifest = {"vocab_size": 4, "grid": [1, 1], "splits": {"train": []}}
  (tmp_path / tokens.MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match=r"'train' .* holds no image"):
    tokens.source("train", path=str(tmp_path))


def test_a_token_out_of_range_is_named(tmp_path):
  ids = np.zeros((10, 6), int)
  ids[7, 2], ids[8, 0] = 16, 20
  make(tmp_path, ids, 16, shard_size=4)
  with pytest.raises(
    ValueError, match=r"token 16 at position 2 of image 7 .*0\.\.15 \(2 such"
  ):
    tokens.source("train", path=str(tmp_path))
  with pytest.raises(ValueError, match=r"token -1 at position 1 of image 0"):
    tokens.check_ids(np.array([[0, -1]]), 4, "here")
