"""Pictures in folders: what is shown, and that bad files end no run."""

import logging

import numpy as np
import pytest
from PIL import Image

from vq_jax.data import _loader, folder


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
  (root / "cat" / "03.txt").write_text(" a  tabby\ncat ")
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
  kept = [name for name in again.files if name != "ant/new.png"]
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


def test_the_middle_is_cut_out_of_the_scaled_picture(tmp_path):
  """Of 12 x 6 the middle 6 x 6, by block means, whichever side is longer."""
  noise = np.random.default_rng(0).integers(0, 256, (6, 12, 3)).astype(np.uint8)
  smooth = np.array(Image.fromarray(noise).resize((120, 60)).resize((12, 6)))
  for name, array in (("wide", smooth), ("tall", smooth.transpose(1, 0, 2))):
    file = tmp_path / f"{name}.png"
    Image.fromarray(array).save(file)
    middle = array[:, 3:9] if name == "wide" else array[3:9]
    np.testing.assert_array_equal(folder.read_image(file, 6), middle)
    means = middle.reshape(2, 3, 2, 3, 3).mean((1, 3))
    assert np.abs(folder.read_image(file, 2) - means).max() < 20
  assert folder.read_image(file, 24).shape == (24, 24, 3)


@pytest.mark.parametrize(
  ("mode", "color", "expected"),
  [
    ("L", 90, (90, 90, 90)),
    ("1", 1, (255, 255, 255)),
    ("RGBA", (200, 30, 60, 0), (255, 255, 255)),
    ("RGBA", (200, 30, 60, 255), (200, 30, 60)),
    ("LA", (0, 0), (255, 255, 255)),
    ("I;16", 90 * 257, (90, 90, 90)),
    ("P", 0, (0, 0, 0)),
  ],
)
def test_every_kind_of_pixel_is_rgb_on_white(tmp_path, mode, color, expected):
  paint(tmp_path / "x.png", color, mode=mode)
  image = folder.read_image(tmp_path / "x.png", 4)
  np.testing.assert_array_equal(image, np.broadcast_to(expected, (4, 4, 3)))


def test_cameras_that_lay_on_their_side(tmp_path):
  """EXIF orientation 6 is a quarter turn clockwise to be upright."""
  array = np.zeros((8, 8, 3), np.uint8)
  array[:4] = 255  # The top, which turns to the right.
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(array).save(tmp_path / "x.png", exif=exif)
  upright = np.zeros((8, 8, 3), np.uint8)
  upright[:, 4:] = 255
  np.testing.assert_array_equal(
    folder.read_image(tmp_path / "x.png", 8), upright
  )


def test_what_is_no_picture_is_not_listed(root):
  (root / "cat" / "._00.png").write_bytes(b"a Mac's")
  (root / ".thumbnails").mkdir()
  paint(root / ".thumbnails" / "0.png")
  (root / "cat" / "readme.md").write_text("cats")
  (root / "notes.txt").write_text("notes")
  assert len(everything(root)) + len(everything(root, "validation")) == 40


def damage(pictures, *indices):
  for i in indices:
    file = pictures.root / pictures.files[i]
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
  assert pictures.skipped == [pictures.files[i] for i in order]
  assert len(caplog.messages) == 3  # Each is told of once.
  assert pictures.files[3] in caplog.messages[0]
  assert "3 of 4 files so far" in caplog.messages[2]


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


def test_more_bad_than_good_files_are_an_error(root):
  pictures = folder.source("train", path=str(root), size=4)
  damage(pictures, *range(folder.ENOUGH))
  with pytest.raises(ValueError, match="16 of the 16 files read"):
    pictures[0]


def test_of_few_files_all_are_read_before_giving_up(tmp_path):
  for i in range(3):
    paint(tmp_path / "train" / "a" / f"{i}.png", (i, 0, 0))
  pictures = folder.source("train", path=str(tmp_path), size=4)
  damage(pictures, 0, 1)
  with pytest.raises(ValueError, match="2 of the 3 files read"):
    [pictures[i] for i in (0, 1, 2)]


def test_half_of_two_is_not_more_than_half(tmp_path):
  for i in range(2):
    paint(tmp_path / "train" / "a" / f"{i}.png", (i, 0, 0))
  pictures = folder.source("train", path=str(tmp_path), size=4)
  damage(pictures, 0)
  assert [int(pictures[i]["image"][0, 0, 0]) for i in (0, 1, 0)] == [1, 1, 1]
  with pytest.raises(IndexError, match="no number 2"):
    pictures[2]


def test_nothing_there_is_one_sentence(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no folder of pictures .*none"):
    everything(tmp_path / "none")
  with pytest.raises(FileNotFoundError, match=r"no picture .*'train'.*\.jpg"):
    everything(tmp_path)
  paint(tmp_path / "loose.png")  # In no class folder.
  with pytest.raises(FileNotFoundError, match="CLASS/NAME"):
    everything(tmp_path)
  with pytest.raises(ValueError, match=r"'test'.*train, validation"):
    everything(tmp_path, "test")
  with pytest.raises(ValueError, match="size is 0"):
    everything(tmp_path, size=0)
