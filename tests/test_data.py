"""The embedded pictures: splits, held-out law, sizes, attributions."""

import collections
import json
import shutil

import numpy as np
import pytest

from vq_jax.data import emoji, synthetic

MODULES = (emoji, synthetic)
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def splits():
  return {split: emoji.source(split, size=16) for split in emoji.SPLITS}


def pairs(source):
  return set(zip(source.styles.tolist(), source.names, strict=True))


@pytest.fixture
def copy_of_emoji(tmp_path, monkeypatch):
  """The package's files where a test may damage them; caches empty."""
  shutil.copytree(emoji.ROOT, tmp_path / "emoji")
  monkeypatch.setattr(emoji, "ROOT", tmp_path / "emoji")
  monkeypatch.setattr(emoji, "_cells", emoji._cells.__wrapped__)
  monkeypatch.setattr(emoji, "glyphs", emoji.glyphs.__wrapped__)
  return tmp_path / "emoji"


def test_train_and_validation_share_no_glyph(splits):
  seen = set(splits["train"].names) | set(splits["heldout"].names)
  assert not seen & set(splits["validation"].names)


def test_heldout_names_are_trained_on_in_the_other_styles_only(splits):
  trained, heldout = pairs(splits["train"]), pairs(splits["heldout"])
  assert not trained & heldout
  others = collections.defaultdict(set)
  for style, name in trained:
    others[name].add(style)
  for style, name in heldout:
    assert others[name] and style not in others[name]
  assert len({name for _, name in heldout}) == len(heldout)


def test_the_splits_are_the_whole(splits):
  """Every picture of glyphs.json is in exactly one split, in its share."""
  rows = json.loads((emoji.ROOT / "glyphs.json").read_text())
  whole = {
    (emoji.STYLES.index(style), row["name"])
    for row in rows
    for style in row["styles"]
  }
  parts = [pairs(source) for source in splits.values()]
  assert set().union(*parts) == whole
  assert sum(map(len, parts)) == len(whole) == 5382
  assert len(rows) == len({row["name"] for row in rows}) == 1906
  validation = len(set(splits["validation"].names))
  # Binomial counts: within four standard deviations of 10% and of 5% of 90%.
  assert abs(validation - 190.6) < 4 * (1906 * 0.1 * 0.9) ** 0.5
  assert abs(len(splits["heldout"]) - 85.8) < 4 * (1716 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("split", emoji.SPLITS)
def test_every_style_and_class_is_in_every_split(splits, split):
  styles = np.bincount(splits[split].styles, minlength=emoji.NUM_STYLES)
  labels = np.bincount(splits[split].labels, minlength=emoji.NUM_LABELS)
  assert len(styles) == emoji.NUM_STYLES and styles.min() > 0
  assert len(labels) == emoji.NUM_LABELS and labels.min() > 0


def test_captions_are_style_then_name_and_short(splits):
  for source in splits.values():
    columns = zip(source.styles, source.names, source.captions, strict=True)
    for style, name, caption in columns:
      assert caption == f"{emoji.STYLES[style]} {name}"
      assert caption == caption.lower() and caption.isascii()
      assert len(caption) <= 80


def test_known_pictures():
  """A red heart is red, a black square black, and all stand on white."""
  train, validation = emoji.source("train"), emoji.source("validation")
  by_caption = {
    caption: image
    for source in (train, validation, emoji.source("heldout"))
    for caption, image in zip(source.captions, source.images, strict=True)
  }
  for style in emoji.STYLES:
    r, g, b = by_caption[f"{style} heavy black heart"][32, 32]
    assert r > 180 and r > 2 * g and r > 2 * b
    assert by_caption[f"{style} black large square"][32, 32].max() < 90
  # A crab is in one split for all of its styles.
  assert "crab" in {*train.names, *validation.names}
  corners = train.images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
  assert np.median(corners.reshape(len(corners), -1).min(1)) == 255


@pytest.mark.parametrize("size", [32, 16])
def test_small_sizes_are_block_means(size):
  large = emoji.source("heldout").images.astype(np.float64)
  small = emoji.source("heldout", size=size).images
  k = 64 // size
  mean = sum(large[:, i::k, j::k] for i in range(k) for j in range(k)) / k**2
  assert np.abs(small - mean).max() <= 0.5


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("split", ["train", "validation", "heldout"])
def test_contract(module, split):
  source = module.source(split, size=16)
  count = len(source)
  assert source.images.shape == (count, 16, 16, 3)
  assert source.images.dtype == np.uint8
  assert source.labels.dtype == source.styles.dtype == np.int32
  assert source.labels.shape == source.styles.shape == (count,)
  assert len(source.captions) == len(source.names) == count
  assert set(source.labels) <= set(range(module.NUM_LABELS))
  assert set(source.styles) <= set(range(module.NUM_STYLES))
  example = source[count - 1]
  np.testing.assert_array_equal(example["image"], source.images[-1])
  assert example["label"] == source.labels[-1]
  assert example["style"] == source.styles[-1]
  assert example["caption"] == source.captions[-1]
  assert example["name"] in example["caption"]
  assert module.STYLES[example["style"]] == example["caption"].split()[0]


@pytest.mark.parametrize("module", MODULES)
def test_same_call_same_pictures(module):
  one, two = (
    module.source("heldout", size=16),
    module.source("heldout", size=16),
  )
  np.testing.assert_array_equal(one.images, two.images)
  assert one.captions == two.captions


@pytest.mark.parametrize("module", MODULES)
def test_unknown_split_lists_the_choices(module):
  with pytest.raises(ValueError, match=r"'tset'.*heldout, train, validation"):
    module.source("tset")


def test_unknown_size_lists_the_choices():
  with pytest.raises(ValueError, match=r"48.*64, 32, 16"):
    emoji.source("train", size=48)
  with pytest.raises(ValueError, match="size 2"):
    synthetic.source("train", size=2)


@pytest.mark.parametrize("damage", ["missing", "truncated", "wrong"])
def test_a_damaged_sheet_is_named(copy_of_emoji, damage):
  path = copy_of_emoji / "sheets" / "noto.webp"
  data = path.read_bytes()
  if damage == "missing":
    path.unlink()
  else:
    path.write_bytes(data[:1000] if damage == "truncated" else b"not a picture")
  with pytest.raises(ValueError, match=r"noto\.webp.*reinstall vq_jax"):
    emoji.source("heldout", size=16)


def test_a_damaged_list_is_named(copy_of_emoji):
  (copy_of_emoji / "glyphs.json").write_text("[{")
  with pytest.raises(ValueError, match=r"glyphs\.json.*reinstall vq_jax"):
    emoji.source("heldout", size=16)


def test_the_package_is_small_and_attributed():
  files = [path for path in emoji.ROOT.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) <= 9 * MEGABYTE
  notice = (emoji.ROOT / "NOTICE").read_text()
  for style in emoji.STYLES:
    assert f"sheets/{style}.webp" in notice
  licences = {path.name for path in (emoji.ROOT / "licences").iterdir()}
  assert len(licences) == 4
  assert all(f"licences/{name}" in notice for name in licences)
  assert "What was changed" in notice


def test_synthetic_pictures_show_their_captions():
  """The strongest channel is the colour's; the shape covers what it should."""
  source = synthetic.source("train", size=32, count=48)
  for i in range(48):
    image = source.images[i].astype(int)
    lit = np.flatnonzero(image.max((0, 1)) == image.max())
    expected = {"red": [0], "green": [1], "blue": [2], "white": [0, 1, 2]}
    assert lit.tolist() == expected[synthetic.STYLES[source.styles[i]]]
    flat = len(np.unique(image.reshape(-1, 3), axis=0)) == 2
    assert flat == (source.names[i] != "gradient")


def test_synthetic_pictures_depend_on_index_seed_and_split_alone():
  short = synthetic.source("train", count=5)
  long = synthetic.source("train", count=9)
  np.testing.assert_array_equal(short.images, long.images[:5])
  for other in (
    synthetic.source("train", count=5, seed=1),
    synthetic.source("validation", count=5),
  ):
    assert (other.images != short.images).any((1, 2, 3)).all()


def test_a_label_may_be_category_style_or_both():
  plain, style, both = (
    emoji.source("heldout", size=16, label=label)
    for label in ("category", "style", "both")
  )
  np.testing.assert_array_equal(style.labels, plain.styles)
  np.testing.assert_array_equal(both.labels // 3, plain.labels)
  np.testing.assert_array_equal(both.labels % 3, plain.styles)
  with pytest.raises(ValueError, match=r"no label 'sort'.*both, category"):
    emoji.source("heldout", label="sort")
