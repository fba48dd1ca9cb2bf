"""Statistics of data that are known by construction."""

import collections
import json

import numpy as np
import pytest
from PIL import Image

from vq_jax.train import statistics


def run(root, **config):
  data = dict(name="folder", path=str(root / "data"), size=4)
  config = {"data": data, "splits": ["train"], **config}
  statistics.statistics(config, root / "run", None)
  return json.loads((root / "run" / "statistics.json").read_text())


def test_everything_is_counted_and_drawn(tmp_path):
  """Ten pictures of 12x8 and five of 6x30; one bad file and one bare text."""
  train = tmp_path / "data" / "train"
  for name, size, count in (("cat", (12, 8), 10), ("dog", (6, 30), 5)):
    (train / name).mkdir(parents=True)
    for i in range(count):
      picture = Image.new("RGB", size, (20 * i, 0, 0))
      picture.save(train / name / f"{i}.png")
  (train / "emu").mkdir()
  (train / "emu" / "0.png").write_bytes(b"\x89PNG")
  (train / "cat" / "3.txt").write_text("five\nseventy\n")
  found = run(tmp_path)["train"]
  assert found["pictures"] == 16
  (broken,) = found["broken"].items()
  assert broken[0].endswith("emu/0.png") and broken[1]
  assert found["sizes"] == {"12x8": 10, "6x30": 5}
  assert found["width"] == {"least": 6, "median": 12, "most": 12}
  assert found["height"] == {"least": 8, "median": 8, "most": 30}
  assert found["classes"] == {"cat": 10, "dog": 5, "emu": 0}
  assert found["per_class"] == {"least": 0, "median": 5, "most": 10}
  assert found["captions_per_picture"]["most"] == 2
  assert found["caption_length"] == {"least": 3, "median": 3, "most": 7}
  assert found["without_caption"] == 0 and found["faults"] == []
  drawn = tmp_path / "run" / "statistics"
  assert np.asarray(Image.open(drawn / "train.png")).std() > 0
  sheet = np.asarray(Image.open(drawn / "train_sheet.png"))
  # Fifteen in rows of twelve, 64 pixels each with gaps of two.
  assert sheet.shape == (2 * 66 + 2, 12 * 66 + 2, 3)
  row = sheet[2 + 32, 2 + 32 :: 66, 0]
  np.testing.assert_array_equal(row[:10], 20 * np.arange(10))


def test_pictures_in_memory_and_none_at_all(tmp_path):
  found = run(tmp_path, data=dict(name="synthetic", size=16, count=9))["train"]
  assert found["classes"] == {"0": 3, "1": 3, "2": 3}
  assert found["sizes"] == {"16x16": 9}
  counts = statistics.Counts()
  counts.add({"broken": "x", "reason": "y"})
  empty = statistics.summary(counts)
  assert empty["pictures"] == 1 and empty["width"] == {}
  statistics.charts(tmp_path / "empty.png", empty, counts)
  statistics.sheet(tmp_path / "none.png", [], counts)
  found = [path.name for path in tmp_path.glob("*.png")]
  assert found == ["empty.png"]


@pytest.mark.parametrize("count", [1, 2, 9, 100])
def test_a_spread_of_counts_is_that_of_what_was_counted(count):
  values = np.random.default_rng(count).integers(0, 9, count)
  order = sorted(values.tolist())
  assert statistics.spread(collections.Counter(values.tolist())) == {
    "least": order[0],
    "median": order[(count - 1) // 2],
    "most": order[-1],
  }


def test_tokens_have_no_pixels(tmp_path):
  with pytest.raises(ValueError, match="needs the config of a tokenizer"):
    statistics.statistics({"data": {}}, tmp_path, None)
