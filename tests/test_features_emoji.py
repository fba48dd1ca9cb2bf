"""The emoji encoder: what it knows, and how distances between sets behave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vq_jax.data import emoji as data
from vq_jax.features import emoji

COUNT = 300


@pytest.fixture(scope="module")
def params():
  return emoji.load()


@pytest.fixture(scope="module")
def pictures():
  """A few hundred pictures across the training split, in [0, 1]."""
  source = data.source("train", size=32)
  rows = np.random.default_rng(0).permutation(len(source))[:COUNT]
  images = source.images[rows] / np.float32(255.0)
  return images, [source.captions[row] for row in rows]


@pytest.fixture(scope="module")
def extract(params):
  return jax.jit(lambda images: emoji.image_features(params, images))


def frechet(x, y):
  """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), by eigenvalues of S1 S2."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  gap = np.square(x.mean(0) - y.mean(0)).sum()
  s1, s2 = np.cov(x.T), np.cov(y.T)
  roots = np.sqrt(np.maximum(np.linalg.eigvals(s1 @ s2).real, 0.0))
  return gap + np.trace(s1) + np.trace(s2) - 2.0 * roots.sum()


def test_shapes_units_and_lengths(params, pictures, extract):
  images, captions = pictures
  features, image = extract(images)
  text = emoji.text_embedding(params, captions)
  assert features.shape == (COUNT, emoji.FEATURES)
  assert image.shape == text.shape == (COUNT, emoji.EMBEDDING)
  assert features.dtype == image.dtype == text.dtype == jnp.float32
  np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1.0, rtol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1.0, rtol=1e-5)
  assert np.linalg.norm(features, axis=1).std() > 1e-3


def test_the_own_caption_ranks_in_the_top_percent(params, pictures, extract):
  """Among the captions of all pictures, for the median picture."""
  images, own = pictures
  every = [
    caption
    for split in data.SPLITS
    for caption in data.source(split, size=16).captions
  ]
  text = np.asarray(emoji.text_embedding(params, every))
  similarity = np.asarray(extract(images)[1]) @ text.T
  score = similarity[np.arange(COUNT), [every.index(c) for c in own]]
  rank = 1 + (similarity > score[:, None]).sum(axis=1)
  assert np.median(rank) <= 0.01 * len(every)


def test_the_style_is_told_apart(params, pictures, extract):
  """With the right name, the caption of the picture's own style wins."""
  images, captions = pictures
  names = [caption.split(" ", 1)[1] for caption in captions]
  image = np.asarray(extract(images)[1])
  scores = [
    (image * emoji.text_embedding(params, [f"{s} {n}" for n in names])).sum(1)
    for s in data.STYLES
  ]
  own = [data.STYLES.index(caption.split()[0]) for caption in captions]
  assert np.mean(np.argmax(scores, axis=0) == own) > 0.9


@pytest.mark.parametrize("damage", ["noise", "blur"])
def test_frechet_distance_grows_with_the_damage(pictures, extract, damage):
  images, _ = pictures
  rng = np.random.default_rng(1)
  noise = rng.standard_normal(images.shape).astype(np.float32)

  def damaged(level):
    if damage == "noise":
      return np.clip(images + 0.08 * level * noise, 0.0, 1.0)
    small = (COUNT, 32 >> level, 32 >> level, 3)
    return jax.image.resize(
      jax.image.resize(images, small, "linear"), images.shape, "linear"
    )

  clean = extract(images)[0]
  distances = [frechet(clean, extract(damaged(k))[0]) for k in (1, 2, 3)]
  assert 0 < distances[0] < distances[1] < distances[2]


def test_a_large_picture_is_resampled_to_the_same_features(extract):
  """Pixels doubled in size say the same; the antialiasing filter blurs."""
  images = data.source("heldout", size=32).images / np.float32(255.0)
  large = images.repeat(2, axis=1).repeat(2, axis=2)
  small, twice = extract(images)[1], extract(large)[1]
  assert np.median(np.sum(np.asarray(small) * np.asarray(twice), axis=1)) > 0.9


def test_a_picture_does_not_depend_on_its_batch(pictures, extract):
  images, _ = pictures
  whole, alone = extract(images), extract(images[:1])
  for a, b in zip(whole, alone, strict=True):
    np.testing.assert_allclose(a[:1], b, rtol=1e-3, atol=1e-4)
  again = extract(images)
  np.testing.assert_array_equal(whole[0], again[0])


def test_tokens_are_a_bag_of_words_pairs_and_trigrams():
  """ "ab b": 2 words, 1 pair; ^ab, ab$, ^b$ as trigrams. 0 elsewhere."""
  [ids] = emoji.tokenize(["ab b"])
  assert ids.dtype == np.int32 and ids.shape == (emoji.MAX_TOKENS,)
  assert (ids > 0).sum() == 6 and (ids[6:] == 0).all()
  assert ids.max() < emoji.BUCKETS
  [swapped] = emoji.tokenize(["b ab"])
  assert set(ids) - set(swapped) == {ids[2]}  # Only the pair knows the order.
  np.testing.assert_array_equal(emoji.tokenize(["AB, b"])[0], ids)


@pytest.mark.parametrize(
  "caption",
  [
    "a" * 80,
    "a " * 40,
    "ab " * 26,
    "abc " * 20,
    "é" * 40,
    "&" * 80,
    "& " * 40,
    "",
  ],
)
def test_any_caption_of_80_bytes_fits(caption):
  assert emoji.tokenize([caption]).shape == (1, emoji.MAX_TOKENS)


def test_no_two_captions_are_the_same_bag():
  captions = data.source("train", size=16).captions
  captions = captions + data.source("validation", size=16).captions
  bags = {tuple(sorted(ids)) for ids in emoji.tokenize(captions)}
  assert len(bags) == len(set(captions)) == len(captions)


def test_a_long_caption_is_refused():
  with pytest.raises(ValueError, match="Longer than 80 bytes: 'aaa"):
    emoji.tokenize(["a" * 81])


def test_padding_changes_nothing(params):
  tokens = emoji.tokenize(["fluent crab"])
  longer = np.pad(tokens, ((0, 0), (0, 9)))
  np.testing.assert_allclose(
    emoji.token_embedding(params, tokens),
    emoji.token_embedding(params, longer),
    atol=1e-6,
  )


def test_weights_survive_a_round_trip(params, tmp_path):
  """float16 values are exact in float32 and back."""
  emoji.save(params, tmp_path / "x.safetensors")
  back = emoji.load(tmp_path / "x.safetensors")
  jax.tree.map(np.testing.assert_array_equal, params, back)
  assert emoji.WEIGHTS.stat().st_size <= 3_000_000


def test_damaged_weights_are_named(tmp_path):
  path = tmp_path / "x.safetensors"
  with pytest.raises(ValueError, match=r"x\.safetensors.*reinstall vq_jax"):
    emoji.load(path)
  path.write_bytes(b"damaged")
  with pytest.raises(ValueError, match=r"x\.safetensors.*reinstall vq_jax"):
    emoji.load(path)
  tensors = safetensors.numpy.load_file(emoji.WEIGHTS)
  del tensors["log_scale"]
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(ValueError, match="tensor log_scale"):
    emoji.load(path)
