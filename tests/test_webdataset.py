"""Tar shards: any example by its bytes, and shards that were cut off."""

import io
import json
import logging
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from vq_jax.data import folder, webdataset


def picture(red, kind="PNG"):
  file = io.BytesIO()
  Image.new("RGB", (12, 8), (red, 0, 0)).save(file, kind)
  return file.getvalue()


def write(path, members, form=tarfile.PAX_FORMAT):
  """(name, bytes) pairs -> a tar file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w", format=form) as tar:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))


def members(first, count):
  """As img2dataset writes them, JSON first."""
  for i in range(first, first + count):
    told = json.dumps({"caption": f"json {i}", "url": "x", "width": 12})
    yield f"{i:09d}.json", told.encode()
    yield f"{i:09d}.png", picture(i)
    yield f"{i:09d}.txt", f"caption {i}".encode()


@pytest.fixture
def root(tmp_path):
  """Three shards of 20 pictures, split by name of shard."""
  for k in range(3):
    write(tmp_path / f"{k:05d}.tar", members(20 * k, 20))
  return tmp_path


SHARDS = {"train": "0000[01].tar", "validation": "00002.tar"}


def read(root, split="train", **options):
  options = {"shards": SHARDS, **options}
  return webdataset.source(split, path=str(root), size=4, **options)


def red(example):
  return int(example["image"][0, 0, 0])


def test_examples_come_in_the_order_of_the_files(root):
  train = read(root)
  assert [red(train[i]) for i in range(40)] == list(range(40))
  assert [train[i]["caption"] for i in (39, 0)] == ["caption 39", "caption 0"]
  assert [red(e) for e in read(root, "validation")] == list(range(40, 60))
  assert "label" not in train[0]


def test_an_index_is_built_once_and_only_while_it_is_true(root, monkeypatch):
  shown = [red(e) for e in read(root)]
  assert (root / "00000.tar.index.npz").is_file()
  assert not list(root.glob(".*"))  # No half-written files.
  scans = []
  scan = webdataset._scan
  monkeypatch.setattr(
    webdataset, "_scan", lambda *a: scans.append(a[0].name) or scan(*a)
  )
  assert [red(e) for e in read(root)] == shown and not scans
  write(root / "00001.tar", members(100, 3))
  assert [red(e) for e in read(root)] == [*range(20), 100, 101, 102]
  (root / "00000.tar.index.npz").write_bytes(b"PK torn")
  assert len(read(root)) == 23
  assert scans == ["00001.tar", "00000.tar"]


def test_an_index_may_live_elsewhere(root, tmp_path, caplog):
  (root / "a").mkdir()
  os.rename(root / "00001.tar", root / "a" / "00000.tar")
  cache = tmp_path / "cache"
  both = dict(shards={"train": "**/00000.tar"}, cache=str(cache))
  assert [red(e) for e in read(root, **both)] == list(range(40))
  found = {p.relative_to(cache).as_posix() for p in cache.rglob("*.npz")}
  assert found == {"00000.tar.index.npz", "a/00000.tar.index.npz"}
  assert not list(root.glob("*.npz"))
  # Where nothing can be written, it is told and works.
  both["cache"] = str(root / "00002.tar" / "no")
  with caplog.at_level(logging.WARNING):
    assert len(read(root, **both)) == 40
  assert "config.data.cache" in caplog.text


def test_without_shards_a_hash_of_each_name_splits(root):
  splits = [read(root, s, shards=None) for s in ("train", "validation")]
  train, validation = ([red(e) for e in split] for split in splits)
  assert sorted(train + validation) == list(range(60))
  assert 0 < len(validation) <= 6 + 4 * (60 * 0.09) ** 0.5
  tenths = [folder._tenth(f"{i:09d}") for i in validation]
  assert set(tenths) == {0}  # The rule of folders, on the same names.


@pytest.mark.parametrize("cut", range(0, 3 * 512 + 600, 100))
def test_of_a_shard_that_was_cut_off_the_rest_is_used(tmp_path, cut, caplog):
  """Whatever remains whole is shown, and never anything torn."""
  write(tmp_path / "0.tar", [(f"{i}.png", picture(i)) for i in range(3)])
  whole = (tmp_path / "0.tar").read_bytes()
  # Of each picture a header and data, both filled up to blocks.
  used = [512 + i * 1024 + len(picture(i)) for i in range(3)]
  size = 1024 + cut
  (tmp_path / "0.tar").write_bytes(whole[:size])
  with caplog.at_level(logging.WARNING):
    shown = read(tmp_path, shards={"train": "*.tar"})
  expected = [i for i in range(3) if used[i] <= size]
  assert [red(e) for e in shown] == expected
  missing = size < 3 * 1024 + 512  # The end of a tar is a block of zeros.
  assert bool(shown.records.faults) == missing
  if missing:
    assert "0.tar" in caplog.text and "cut off" in caplog.text
    assert f"the {len(expected)} pictures before" in caplog.text


def test_empty_and_strange_shards_are_named(root, caplog):
  (root / "00000.tar").write_bytes(b"")
  (root / "00001.tar").write_bytes(b"<html>404</html>" * 100)
  with caplog.at_level(logging.WARNING):
    shown = read(root, shards={"train": "*.tar"})
  assert [red(e) for e in shown] == list(range(40, 60))
  assert len(shown.records.faults) == 2
  for name in ("00000.tar: it is no tar", "00001.tar: it is no tar"):
    assert name in caplog.text
  with pytest.raises(FileNotFoundError, match=r"no picture .*00000.tar: it is"):
    read(root)


def test_bad_members_are_skipped_by_name(root, caplog):
  torn = list(members(0, 5))
  torn[4] = (torn[4][0], torn[4][1][:40])  # The second picture,
  torn[9] = (torn[9][0], b"{")  # and what is not read, beside a text.
  write(root / "00000.tar", torn)
  train = read(root)
  assert [red(train[i]) for i in range(5)] == [0, 2, 2, 3, 4]
  assert train.skipped == [f"{root / '00000.tar'}:000000001"]
  assert "000000001" in caplog.text


def test_names_suffixes_and_captions(tmp_path):
  """Long names, folders, upper case, parts of no interest, any Unicode."""
  text = "\u732b\n\U0001f431 \u202e\ud83d"
  name = "d.ir/" + "\u00fc" * 120
  write(
    tmp_path / "0.tar",
    [
      ("alone.txt", b"no picture"),
      (f"{name}.JPG", picture(200, "JPEG")),
      (f"{name}.json", json.dumps({"caption": text}).encode()),
      (f"{name}.seg.png", picture(9)),
      ("d.ir/b.webp", picture(100, "WEBP")),
      ("c.json", json.dumps({"caption": ["x", "y"]}).encode()),
      ("c.png", picture(1)),
      ("e.png", picture(2)),
      ("e.json", json.dumps({"caption": None}).encode()),
    ],
  )
  shown = list(read(tmp_path, shards={"train": "0.tar"}))
  assert np.allclose([red(e) for e in shown], (200, 100, 1, 2), atol=9)
  said = [example["captions"] for example in shown]
  assert said == ["\u732b \U0001f431 \u202e?", "", "x\ny", ""]
  np.testing.assert_array_equal(shown[3]["image"].shape, (4, 4, 3))


def test_classes_are_known_without_reading(tmp_path):
  told = {0: b"7\n", 1: b"3", 2: b"torn", 3: b"0"}
  rows = []
  for i, label in told.items():
    rows += [(f"{i}.cls", label), (f"{i}.png", picture(i))]
  write(tmp_path / "0.tar", rows)
  for _ in range(2):  # Found, and as kept.
    shown = read(tmp_path, shards={"train": "0.tar"})
    np.testing.assert_array_equal(shown.labels, [7, 3, -1, 0])
    # A picture whose class is not known is bad, where others have classes.
    found = [(red(e), e["label"]) for e in shown]
    assert found == [(0, 7), (1, 3), (3, 0), (3, 0)]


def test_wrong_places_are_one_sentence(root, tmp_path):
  with pytest.raises(FileNotFoundError, match="no folder of tar files"):
    read(root / "none")
  with pytest.raises(FileNotFoundError, match=r"no tar file .*9\*\.tar"):
    read(root, shards={"train": "9*.tar"})
  with pytest.raises(ValueError, match=r"'test'.*train, validation"):
    read(root, "test")
