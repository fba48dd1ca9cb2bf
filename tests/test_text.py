"""Text as one more kind of image: painted, read, learnt, drawn, measured."""

import json
import math

import jax
import numpy as np
import pytest
import toy
from PIL import Image

from configs import emoji32_vqgan, lcmd_text, names
from vq_jax import evaluate, font, pictures, pipeline, weights
from vq_jax.data import emoji, tokens
from vq_jax.data import names as source_of_names
from vq_jax.tokenizer import characters
from vq_jax.train import (
  actions,
  checkpoint,
  edit,
  likelihood,
  prior,
  tokenize,
)
from vq_jax.train import codes as train_codes
from vq_jax.train.task import new_state

K = len(font.ALPHABET)
RNG = np.random.default_rng(0)
WEIGHTS = pipeline.init_tokenizer(characters.Tokenizer(), jax.random.key(0))


def read(images, length=32):
  """uint8 [b h w c] -> ids [b n]."""
  return pipeline.encode(characters.Tokenizer(length), WEIGHTS, images)


def resolved(config):
  return json.loads(config.to_json())


# --- A font is a codebook ---


def test_every_code_is_read_as_it_was_painted():
  ids = RNG.permutation(np.tile(np.arange(K), 4)).reshape(2, -1)
  grid = (4, K // 2)  # Rows of text are no rarer than rows of tokens.
  codes = characters.Tokenizer()
  images = pipeline.decode(codes, WEIGHTS, ids, grid)
  assert images.shape == (2, 4 * font.SIDE, K // 2 * font.SIDE, 3)
  assert set(np.unique(images)) == {0.0, 1.0}
  np.testing.assert_array_equal(read(pipeline.to_uint8(images)), ids)
  both, found = codes.apply({"params": WEIGHTS}, 2.0 * images - 1.0)
  np.testing.assert_array_equal(both, 2.0 * images - 1.0)
  np.testing.assert_array_equal(found.ids, ids)


def test_a_cell_is_read_as_the_nearest_glyph():
  """By distances, one glyph at a time, of cells that are all shades."""
  cells = RNG.integers(0, 256, (50, font.SIDE, font.SIDE, 3), np.uint8)
  # Half of them near to a glyph.
  glyphs = np.asarray(font.bitmaps())[RNG.integers(0, K, 25)]
  cells[:25] = np.where(
    RNG.random(cells[:25].shape) < 0.7, glyphs[..., None], cells[:25]
  )
  grey = cells.astype(float).mean(-1)
  apart = [((grey - glyph) ** 2).sum((1, 2)) for glyph in font.bitmaps()]
  np.testing.assert_array_equal(read(cells)[:, 0], np.argmin(apart, 0))


def test_glyphs_differ_and_only_blank_is_white():
  glyphs = font.bitmaps()
  assert len({glyph.tobytes() for glyph in glyphs}) == K == 46
  white = [i for i, glyph in enumerate(glyphs) if (glyph == 255).all()]
  assert white == [font.BLANK] and font.ALPHABET[font.BLANK] == " "
  # No glyph reaches the right border: neighbours do not touch.
  assert (glyphs[:, :, -2:] == 255).all() and (glyphs[:, :, 0] == 255).all()


def test_what_cannot_be_painted_or_read_is_told():
  with pytest.raises(ValueError, match=r"'crabs' has more than 4"):
    font.paint("crabs", 4)
  with pytest.raises(ValueError, match=r"the font has no 'É'"):
    font.paint("É", 4)
  with pytest.raises(ValueError, match=r"10 x 18 pixels: .* multiples of 9"):
    read(np.zeros((1, 10, 18, 3), np.uint8))
  with pytest.raises(ValueError, match=r"5 ids do not fill a grid of 1 x 4"):
    pipeline.decode(
      characters.Tokenizer(4), WEIGHTS, np.zeros((1, 5), int), (1, 4)
    )


# --- The names of emoji ---


@pytest.fixture(scope="module")
def splits():
  return {s: source_of_names.source(s) for s in source_of_names.SPLITS}


def test_splits_are_those_of_the_pictures(splits):
  """All names that fit, where their pictures are; held-out ones in training."""
  shown = {s: emoji.source(s, size=16) for s in emoji.SPLITS}
  labels = {
    name: label
    for part in shown.values()
    for name, label in zip(part.names, part.labels, strict=True)
  }
  short = {s: {n for n in shown[s].names if len(n) <= 32} for s in shown}
  assert set(splits["validation"].names) == short["validation"]
  assert set(splits["train"].names) == short["train"] | short["heldout"]
  sizes = {s: len(splits[s]) for s in splits}
  assert sizes == {"train": 1641, "validation": 196}
  for part in splits.values():
    assert len(set(part.names)) == len(part)
    assert part.labels == [labels[name] for name in part.names]
  left_out = {name for name in labels if len(name) > 32}
  assert len(left_out) == 69 and len(labels) == 1837 + 69


def test_a_name_is_read_as_it_was_written(splits):
  """Painted, read, spelled; and painted again it is the same picture."""
  codes, part = characters.Tokenizer(), splits["validation"]
  images = np.stack([part[i]["image"] for i in range(len(part))])
  ids = np.asarray(read(images))
  assert codes.spell(ids) == part.names
  again = pipeline.decode(codes, WEIGHTS, ids, (1, 32))
  np.testing.assert_array_equal(pipeline.to_uint8(again), images)


def test_what_names_cannot_be_had_is_told(splits):
  with pytest.raises(ValueError, match=r"no split 'heldout'.* train, valid"):
    source_of_names.source("heldout")
  with pytest.raises(ValueError, match="length is 1; every name of train"):
    source_of_names.source("train", length=1)
  longest = [source_of_names.source(s, length=54) for s in splits]
  assert sum(map(len, longest)) == 1906


# --- Words ---


def spelled(*texts):
  return np.stack([font.ids(text, 16) for text in texts])


def test_words_and_texts_are_counted():
  """By hand. Blanks in front, between and behind make no other text."""
  lexicon = {
    "train": spelled("red heart", "crab"),
    "validation": spelled("blue heart"),
    "blank": font.BLANK,
  }
  drawn = ["crab", "  crab", "blue  heart", "red crab", "rde", ""]
  numbers = evaluate.fold({"words": lexicon}, [{"ids": spelled(*drawn)}])
  assert numbers == pytest.approx(
    {
      "known_words": 5 / 7,  # crab crab heart red crab
      "unseen_words": 1 / 7,  # blue
      "known_texts": 2 / 6,
      "unseen_texts": 1 / 6,
      "distinct_texts": 5 / 6,
    }
  )


def test_no_word_at_all_is_no_known_word():
  lexicon = {"train": spelled("crab"), "validation": spelled("cat")}
  numbers = evaluate.fold({"words": lexicon}, [{"ids": spelled("", "")}])
  assert list(numbers.values()) == [0.0, 0.0, 0.0, 0.0, 0.5]


# --- Through the modes ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(config, directory) of a tiny prior, never trained, and its tokens."""
  root = tmp_path_factory.mktemp("text")
  workdir, tokenizer = root / "lcmd", root / "tokenizer"
  tokenize.tokenize(resolved(names.get_config()), tokenizer, toy.one_device())
  config = resolved(lcmd_text.get_config("smoke"))
  config["data"]["path"] = str(tokenizer / "tokens")
  config["net"]["labels"], config["condition"]["dropout"] = 0, 0.0
  config["prior"]["bound_times"] = 2
  config["sample"] |= dict(count=3, batch=2)
  checkpoint.claim(workdir, config)
  train_codes.adopt_tokenizer(config, workdir)
  shapes = jax.eval_shape(prior.initial(config), jax.random.key(0))
  params = jax.tree.map(
    lambda x: RNG.normal(0.0, 0.4, x.shape).astype(x.dtype), shapes
  )
  store = actions.open_store(config, workdir)
  store.save(1, new_state(params, (), ()))
  store.close()
  return config, workdir


def test_tokens_need_no_training_and_spell_every_name(run, splits):
  config, _ = run
  manifest = tokens.read_manifest(config["data"]["path"])
  assert (manifest["vocab_size"], manifest["grid"]) == (K, [1, 32])
  assert manifest["step"] == 0
  for split, part in splits.items():
    columns = tokens.source(split, path=config["data"]["path"]).columns
    assert characters.Tokenizer().spell(columns["ids"]) == part.names
    assert columns["caption"].tolist() == part.names
    assert columns["label"].tolist() == part.labels


@pytest.mark.parametrize("arg", ["lcmd", "absorbing", "autoregressive"])
def test_priors_of_images_are_trained_on_text(run, arg):
  """An update, traced."""
  config = resolved(lcmd_text.get_config(arg))
  config["data"]["path"] = run[0]["data"]["path"]
  task = prior.make_task(config)
  state = jax.eval_shape(task.init, jax.random.key(0))
  example = {key: task.source[0][key] for key in task.inputs}
  assert set(example) == {"ids", "label"}
  batch = jax.tree.map(lambda x: np.stack([x] * 8), example)
  after, metrics = jax.eval_shape(task.update, state, batch, jax.random.key(0))
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert {"loss", "bits_per_token"} <= set(metrics)


@pytest.mark.slow
def test_training_draws_text_below_text(run, tmp_path):
  config = run[0] | {"steps": 2}
  config["every"] = dict(log=1, evaluate=2, save=2, patience=0)
  actions.train(config, tmp_path, toy.one_device())
  with Image.open(tmp_path / "pictures" / "samples.png") as picture:
    w, h = picture.size
  assert w == 2 * 32 * font.SIDE + 2 * pictures.GAP and h > w


def test_samples_are_pictures_and_lines_of_text(run):
  config, workdir = run
  actions.sample(config, workdir, toy.one_device())
  files = sorted((workdir / "samples").glob("*.png"))
  images = np.stack([np.asarray(Image.open(file)) for file in files])
  assert images.shape == (3, font.SIDE, 32 * font.SIDE, 3)
  lines = (workdir / "samples.txt").read_text().split("\n")
  assert lines == [*characters.Tokenizer().spell(np.asarray(read(images))), ""]
  for name, rows in {"samples.png": 3, "film.png": 2 * actions.FRAMES}.items():
    with Image.open(workdir / name) as picture:
      height = 2 * font.SIDE + pictures.GAP
      assert picture.size[1] == rows * height + pictures.GAP


def test_words_are_measured_and_pictures_are_not(run, capsys):
  config, workdir = run
  actions.evaluate(config, workdir, toy.one_device())
  assert "features is empty" in capsys.readouterr().out
  numbers = json.loads((workdir / "metrics.json").read_text())
  assert numbers["uniform_bits_per_token"] == pytest.approx(math.log2(K))
  assert numbers["unigram_bits_per_token"] < 3.2  # Half of a row is blank.
  assert numbers["bits_per_token"] > 0
  assert 0.6 < numbers["known_words_of_validation"] < 0.9
  assert numbers["distinct_texts"] in (1 / 3, 2 / 3, 1.0)
  assert not [name for name in numbers if name.startswith("emoji")]


def test_text_is_edited_as_pictures_are(run, tmp_path):
  """The first half of a row stays, to the letter."""
  config, workdir = run
  half = 16 * font.SIDE
  pixels = font.paint("a red crab and a blue lobster", 32)
  alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
  alpha[:, half:] = 0
  file = tmp_path / "crab.png"
  Image.fromarray(np.concatenate([pixels, alpha], -1)).save(file)
  edit.edit(config, workdir, toy.one_device(), image=str(file))
  files = sorted((workdir / "edits" / "crab").glob("*.png"))
  variants = np.stack([np.asarray(Image.open(f)) for f in files])
  assert (
    len(variants) == 3 and (variants[:, :, :half] == pixels[:, :half]).all()
  )
  texts = characters.Tokenizer().spell(np.asarray(read(variants)))
  assert all(text.startswith("a red crab and a") for text in texts)


def test_a_given_tokenizer_is_not_trained(tmp_path):
  config, mesh = resolved(names.get_config()), toy.one_device()
  with pytest.raises(ValueError, match="'characters' has nothing to train"):
    actions.train(config, tmp_path, mesh)
  config["tokenizer"] = resolved(emoji32_vqgan.get_config("smoke"))["tokenizer"]
  with pytest.raises(ValueError, match=r"'vqgan' has: take stage = 'vqgan'"):
    tokenize.tokenize(config, tmp_path, mesh)
  assert not list(tmp_path.iterdir())


def test_a_given_tokenizer_loses_nothing(tmp_path):
  config = resolved(names.get_config("smoke"))
  actions.evaluate(config, tmp_path, toy.one_device())
  numbers = json.loads((tmp_path / "metrics.json").read_text())
  assert numbers["l1"] == 0.0 and 0.5 < numbers["codebook_usage"] <= 1.0


@pytest.mark.parametrize(
  ("shape", "columns"),
  [((8, 8), 16), ((8, 24), 16), ((8, 128), 16), ((8, 129), 1), ((9, 288), 1)],
)
def test_only_what_fills_a_row_has_a_row_of_its_own(shape, columns):
  assert pictures.fitting(np.zeros((2, *shape, 3)), 16) == columns


def test_a_head_of_images_is_no_head_of_text(tmp_path):
  weights.save_part(tmp_path, {"name": "characters"}, WEIGHTS)
  with pytest.raises(ValueError, match="nothing that a head could read"):
    likelihood.headed(tmp_path, "runs/elsewhere/tokens")
