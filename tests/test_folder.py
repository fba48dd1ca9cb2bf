"""Pictures in folders: what is shown, and that bad files end no run."""

import concurrent.futures
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from vq_jax.data import _loader, _transforms, folder


def paint(path, color=(200, 30, 60), size=(12, 8), mode="RGB", **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, color).save(path, **options)


@pytest.fixture
def root(tmp_path):
  """Two classes of twenty pictures; the red channel tells which one."""
  for c, name in enumerate(("cat", "dog")):
    for i in range(20):
      paint(tmp_path / name / f"{i:02d}.png", (100 * c + i, 0, 0))
  return tmp_path


def everything(path, split="train", size=4):
  pictures = folder.source(split, path=str(path), size=size)
  return [pictures[i] for i in range(len(pictures))]


def test_contract(root):
  (root / "cat" / "03.txt").write_text(" a  tabby cat ")
  examples = everything(root) + everything(root, "validation")
  shown = {}
  for example in examples:
    assert example["image"].shape == (4, 4, 3)
    assert example["image"].dtype == np.uint8
    red = int(example["image"][0, 0, 0])
    assert example["label"] == red // 100
    shown[red] = example["caption"]
  assert shown.pop(3) == "a tabby cat"
  assert set(shown.values()) == {"cat", "dog"}


def test_the_hash_splits_everything_once_and_for_all(root):
  reds = lambda split: [int(e["image"][0, 0, 0]) for e in split]  # noqa: E731
  train = reds(everything(root))
  validation = reds(everything(root, "validation"))
  assert sorted(train + validation) == [*range(20), *range(100, 120)]
  # Binomial: within four standard deviations of a tenth.
  assert 0 < len(validation) <= 4 + 4 * (40 * 0.09) ** 0.5
  paint(root / "ant" / "new.png")
  again = folder.source("validation", path=str(root), size=4)
  kept = [name for name in again.records.files if name != "ant/new.png"]
  assert len(kept) == len(validation)


def test_folders_split_by_hand_share_their_labels(tmp_path):
  paint(tmp_path / "train" / "ant" / "1.jpg")
  paint(tmp_path / "train" / "bee" / "1.JPEG", format="JPEG")
  paint(tmp_path / "val" / "bee" / "2.webp")
  paint(tmp_path / "test" / "bee" / "3.png")
  for split in ("validation", "test"):
    (example,) = everything(tmp_path, split)
    assert example["label"] == 1 and example["caption"] == "bee"
  assert [e["label"] for e in everything(tmp_path)] == [0, 1]
  with pytest.raises(ValueError, match=r"no split 'heldout'.*test, train, val"):
    everything(tmp_path, "heldout")
  paint(tmp_path / "val" / "wasp" / "1.png")
  with pytest.raises(ValueError, match=r"class 'wasp' that .*train lacks"):
    everything(tmp_path, "validation")


def test_what_is_no_picture_is_not_listed(root):
  (root / "cat" / "._00.png").write_bytes(b"a Mac's")
  (root / ".thumbnails").mkdir()
  paint(root / ".thumbnails" / "0.png")
  (root / "cat" / "readme.md").write_text("cats")
  (root / "notes.txt").write_text("notes")
  assert len(everything(root)) + len(everything(root, "validation")) == 40


def damage(pictures, *indices):
  for i in indices:
    file = pictures.records.root / pictures.records.files[i]
    file.write_bytes(file.read_bytes()[:40])


def test_a_bad_file_is_replaced_by_the_next_good_one(root, caplog):
  pictures = folder.source("train", path=str(root), size=4)
  good = everything(root)
  damage(pictures, 2, 3, len(pictures) - 1)
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      for i in (3, 2, len(pictures) - 1, 1):
        instead = {2: 4, 3: 4, len(pictures) - 1: 0}.get(i, i)
        shown = pictures[i]
        np.testing.assert_array_equal(shown["image"], good[instead]["image"])
        assert shown["label"] == good[instead]["label"]
  order = (3, 2, len(pictures) - 1)
  assert pictures.skipped == [pictures.records.name(i) for i in order]
  assert len(caplog.messages) == 3  # Each is told of once.
  assert pictures.records.files[3] in caplog.messages[0]
  assert "3 of 4 so far" in caplog.messages[2]


def test_training_batches_do_not_depend_on_when_a_file_was_found_bad(root):
  pictures = folder.source("train", path=str(root), size=4)
  damage(pictures, 0, 7, 8, 20)
  batches = []
  for first in (0, 3):
    again = folder.source("train", path=str(root), size=4)
    loader = _loader.Shuffled(again, ("image", "label"), 8, 0)
    for step in range(first, 5):
      rows = loader.rows(step)
    batches.append(rows)
  np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
  np.testing.assert_array_equal(batches[0]["label"], batches[1]["label"])


def test_too_many_bad_files_end_the_run_with_their_names(root):
  def read(max_bad, bad):
    pictures = folder.source("train", path=str(root), size=4, max_bad=max_bad)
    for i in (*range(bad, len(pictures)), *range(bad)):
      pictures[i]
    return pictures

  pictures = folder.source("train", path=str(root), size=4)
  damage(pictures, *range(len(pictures) - 16, len(pictures)))
  assert len(read(0.01, 0).skipped) == 16  # Few enough, whatever their share.
  damage(pictures, 0)
  with pytest.raises(ValueError, match=r"17 of the .*max_bad = 0.01") as told:
    read(0.01, 0)
  assert pictures.records.files[0] in str(told.value)
  assert pictures.records.files[-1] in str(told.value)
  assert len(read(0.6, 0).skipped) == 17
  with pytest.raises(ValueError, match="max_bad is 7; it is a share"):
    read(7, 0)


def test_of_few_files_half_may_be_bad(tmp_path):
  for i in range(3):
    paint(tmp_path / "train" / "a" / f"{i}.png", (i, 0, 0))
  pictures = folder.source("train", path=str(tmp_path), size=4)
  damage(pictures, 0, 1)
  with pytest.raises(ValueError, match="2 of the 2 pictures read"):
    [pictures[i] for i in (0, 1, 2)]


def test_half_of_two_is_not_more_than_half(tmp_path):
  for i in range(2):
    paint(tmp_path / "train" / "a" / f"{i}.png", (i, 0, 0))
  pictures = folder.source("train", path=str(tmp_path), size=4)
  damage(pictures, 0)
  assert [int(pictures[i]["image"][0, 0, 0]) for i in (0, 1, 0)] == [1, 1, 1]
  with pytest.raises(IndexError, match="no number 2"):
    pictures[2]


def test_threads_see_what_one_reader_sees(root):
  alone = folder.source("train", path=str(root), size=4)
  damage(alone, 2, 3, 11)
  together = folder.source("train", path=str(root), size=4)
  order = list(range(len(alone))) * 3
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    shown = list(pool.map(lambda i: together[i]["image"], order))
  for i, image in zip(order, shown, strict=True):
    np.testing.assert_array_equal(image, alone[i]["image"])
  assert sorted(together.skipped) == sorted(alone.skipped)


def test_a_draw_is_a_function_of_seed_and_position(root):
  """Crops and captions too, whichever file stands in for a bad one."""
  (root / "cat" / "05.txt").write_text("one\n\ntwo \n three\n")
  section = dict(crop="random_resized")
  pictures = folder.source("train", path=str(root), size=4, transform=section)
  i = pictures.records.files.index("cat/05.png")
  rng = _transforms.randomness
  said = [pictures.draw(i, rng(0, p))["caption"] for p in range(60)]
  assert said == [pictures.draw(i, rng(0, p))["caption"] for p in range(60)]
  assert {text: said.count(text) > 8 for text in said} == dict.fromkeys(
    ("one", "two", "three"), True
  )
  assert pictures[i]["caption"] == "one"
  assert pictures[i]["captions"] == "one\ntwo\nthree"
  damage(pictures, i - 1)
  for key, value in pictures.draw(i, rng(0, 9)).items():
    np.testing.assert_array_equal(pictures.draw(i - 1, rng(0, 9))[key], value)


def test_lists_split_and_share_their_labels(root):
  (root / "a.txt").write_text("dog/03.png\ncat/07.png\n\n")
  (root / "b.txt").write_text("cat/01.png\n")
  lists = {"train": "a.txt", "validation": "b.txt"}
  read = lambda split: list(  # noqa: E731
    folder.source(split, path=str(root), size=4, lists=lists)
  )
  assert [int(e["image"][0, 0, 0]) for e in read("train")] == [103, 7]
  assert [e["label"] for e in read("train")] == [1, 0]
  source = folder.source("train", path=str(root), size=4, lists=lists)
  np.testing.assert_array_equal(source.labels, [1, 0])
  assert [int(e["image"][0, 0, 0]) for e in read("validation")] == [1]
  with pytest.raises(ValueError, match=r"'test'.*train, validation"):
    read("test")


def test_loose_pictures_with_a_file_of_captions(tmp_path):
  """Any Unicode; rows of one file add up; no class, so no label."""
  for i in range(4):
    paint(tmp_path / "train" / f"{i}.png", (i, 0, 0))
  cat = "\u732b \U0001f431 nu\u0308r\u2028 \u202ertl"
  rows = [
    {"file": "0.png", "caption": cat},
    {"file": "1.png", "caption": ["a", " ", "b\nc"]},
    {"file": "1.png", "caption": "d\ud800\0"},  # Half a character.
  ]
  text = "\n".join(map(json.dumps, rows)) + "\n\n"
  (tmp_path / "train" / "captions.jsonl").write_text(text)
  (tmp_path / "train" / "2.txt").write_bytes(b"\xff torn")
  shown = everything(tmp_path)
  assert all("label" not in example for example in shown)
  said = [example["captions"] for example in shown]
  assert said == [" ".join(cat.split()), "a\nb c\nd?", "\ufffd torn", ""]
  for caption in said:
    caption.encode("utf-8")
  (tmp_path / "train" / "captions.jsonl").write_text('{"file": 3}')
  with pytest.raises(ValueError, match=r"captions.jsonl, line 1: a row is"):
    everything(tmp_path)


def test_what_windows_writes_is_read(root):
  """A mark of the byte order in front, two characters at the end of a line."""
  mark = b"\xef\xbb\xbf"
  (root / "cat" / "00.txt").write_bytes(mark + b"a\r\n\xe2\x80\xa8b\r\n")
  row = json.dumps({"file": "cat/01.png", "caption": "c"}).encode()
  (root / "captions.jsonl").write_bytes(mark + row)
  (root / "list").write_bytes(mark + b"cat/00.png\r\ncat/01.png\r\n")
  lists = {"train": "list"}
  shown = folder.source("train", path=str(root), size=4, lists=lists)
  assert [example["captions"] for example in shown] == ["a\nb", "c"]
  assert not shown.skipped


def test_what_a_list_names_and_is_not_there_is_bad(root, caplog):
  (root / "list").write_text("cat/00.png\ncat/gone.png\ncat/01.png\n")
  (root / "cat" / "01.png").write_bytes(b"")
  lists = {"train": "list"}
  shown = folder.source("train", path=str(root), size=4, lists=lists, max_bad=1)
  assert [int(e["image"][0, 0, 0]) for e in shown] == [0, 0, 0]
  assert "gone.png cannot be decoded" in caplog.text
  assert "01.png cannot be decoded" in caplog.text


def test_some_loose_pictures_are_refused(root):
  paint(root / "loose.png")
  with pytest.raises(ValueError, match=r"loose.png, that are in none"):
    everything(root)


def test_names_that_are_no_unicode(tmp_path, caplog):
  paint(tmp_path / "train" / "0.png")
  os.rename(
    tmp_path / "train" / "0.png", os.fsencode(tmp_path) + b"/train/\xff.png"
  )
  pictures = folder.source("train", path=str(tmp_path), size=4)
  assert pictures[0]["image"].shape == (4, 4, 3)
  pictures.records.name(0).encode("utf-8")


def test_nothing_there_is_one_sentence(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no folder of pictures .*none"):
    everything(tmp_path / "none")
  with pytest.raises(FileNotFoundError, match=r"no picture .*'train'.*\.jpg"):
    everything(tmp_path)
  (tmp_path / "a" / "b").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"'test'.*train, validation"):
    everything(tmp_path, "test")
  with pytest.raises(ValueError, match="size is 0"):
    everything(tmp_path, size=0)
