"""An image-caption dual encoder for the embedded emoji: 1.1 M weights, shipped.

What Inception and CLIP are to photographs, in miniature: `image_features` gives
the features for distances between sets of pictures, and cosines between image
and text embeddings say whether a picture shows its caption. It was trained with
the symmetric contrastive loss of CLIP (arXiv:2103.00020, fig. 3) by
launch/train_features.py on ALL of the embedded data, validation included, as
Inception was trained on all of ImageNet's classes: it is a measuring device,
and its scores on clean pictures say nothing about generalization. Of all 5,382
clean pictures 87% find their own caption first and 99.9% among the first ten.
Its numbers compare with its own numbers only.
"""

import functools
import hashlib
import itertools
import pathlib
import re
import zlib
from collections.abc import Iterable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from vq_jax.features import Features, _frozen
from vq_jax.types import Array, Key, Params

NAME = "emoji"
WEIGHTS = pathlib.Path(__file__).with_name("emoji.safetensors")

SIZE = 32  # Pixels a side that the image tower sees.
FEATURES = 128
EMBEDDING = 96
MAX_BYTES = 80  # Of a caption.
MAX_TOKENS = 120  # No caption of 80 bytes has more words, pairs, trigrams.
BUCKETS = 8192  # Hashed tokens; 0 pads.


class ImageTower(nn.Module):
  """Strided convolutions with one residual block a scale."""

  @nn.compact
  def __call__(self, images: Array) -> tuple[Array, Array]:
    """[b 32 32 3] in [0, 1] -> (features [b FEATURES], embedding)."""
    x = nn.gelu(nn.Conv(32, (4, 4), strides=2)(1.0 - images))
    for width in (64, 128):
      x = nn.Conv(width, (3, 3), strides=2)(x)
      x = nn.gelu(nn.LayerNorm()(x))
      x = x + nn.gelu(nn.LayerNorm()(nn.Conv(width, (3, 3))(x)))
    features = nn.Dense(FEATURES, name="pool")(x.reshape(len(x), -1))
    return features, nn.Dense(EMBEDDING)(nn.gelu(nn.LayerNorm()(features)))


class TextTower(nn.Module):
  """A bag of hashed words, word pairs and letter trigrams, then two layers."""

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    """Token ids [b m], 0 where there is none -> embedding [b EMBEDDING]."""
    present = (tokens > 0)[..., None]
    table = nn.Embed(BUCKETS, 64, name="table")(tokens)
    count = jnp.maximum(present.sum(axis=1), 1)
    x = jnp.where(present, table, 0.0).sum(axis=1) / jnp.sqrt(count)
    x = nn.LayerNorm()(x)
    return nn.Dense(EMBEDDING)(nn.gelu(nn.Dense(256)(x))) + nn.Dense(
      EMBEDDING, use_bias=False, name="skip"
    )(x)


def init(key: Key) -> Params:
  """New weights: {"image", "text", "log_scale"}; exp of the last is 1 / T."""
  key_image, key_text = jax.random.split(key)
  images = jnp.zeros((1, SIZE, SIZE, 3))
  tokens = jnp.zeros((1, MAX_TOKENS), jnp.int32)
  return {
    "image": ImageTower().init(key_image, images)["params"],
    "text": TextTower().init(key_text, tokens)["params"],
    "log_scale": jnp.log(10.0),
  }


def image_features(params: Params, images: Array) -> tuple[Array, Array]:
  """What a picture looks like.

  Args:
    params: from `load`.
    images: [b h w 3] in [0, 1], of any size: resampled to 32x32 with
      antialiasing.

  Returns:
    Features [b FEATURES] for distances between sets, unnormalized; embedding
    [b EMBEDDING] of unit length for cosines with captions.
  """
  shape = (images.shape[0], SIZE, SIZE, images.shape[3])
  images = jnp.asarray(images, jnp.float32)
  if images.shape != shape:
    images = jax.image.resize(images, shape, "linear", antialias=True)
  features, embedding = ImageTower().apply({"params": params["image"]}, images)
  return features, _unit(embedding)


def token_embedding(params: Params, tokens: Array) -> Array:
  """Ids [b m] from `tokenize` -> embedding [b EMBEDDING] of unit length."""
  return _unit(TextTower().apply({"params": params["text"]}, tokens))


def text_embedding(params: Params, captions: Sequence[str]) -> Array:
  """Captions of at most 80 bytes -> embedding [b EMBEDDING] of unit length.

  Raises:
    ValueError: a caption is longer.
  """
  return _embed_tokens(params, tokenize(captions))


_embed_tokens = jax.jit(token_embedding)


def tokenize(captions: Sequence[str]) -> np.ndarray:
  """Captions of at most 80 bytes -> ids int32 [b MAX_TOKENS], 0 after the end.

  Raises:
    ValueError: a caption is longer.
  """
  ids = np.zeros((len(captions), MAX_TOKENS), np.int32)
  for row, caption in zip(ids, captions, strict=True):
    if len(caption.encode()) > MAX_BYTES:
      raise ValueError(f"Longer than {MAX_BYTES} bytes: {caption!r}.")
    tokens = [_bucket(piece) for piece in _pieces(caption)]
    row[: len(tokens)] = tokens
  return ids


def extractor(weights: str = "") -> Features:
  """The network; its captions have at most 80 bytes.

  Args:
    weights: not looked at, for they are shipped.

  Raises:
    ValueError: the file is missing, damaged, or of another layout.
  """
  del weights
  params = load()

  def run(params: Params, images: Array) -> dict[str, Array]:
    features, embedding = image_features(params, images / 255.0)
    return {"pool": features, "embedding": embedding}

  source = {
    "file": WEIGHTS.name,
    "sha256": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest(),
  }
  images = _frozen.of_images(run, params)
  texts = functools.partial(text_embedding, params)
  return Features(NAME, _frozen.digest(params), source, images, texts)


def load(path: str | pathlib.Path = WEIGHTS) -> Params:
  """The shipped weights, float32.

  Raises:
    ValueError: the file is missing, damaged, or of another layout.
  """
  try:
    tensors = safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(
      f"Cannot read {path} ({error}): reinstall vq_jax, or run"
      " launch/train_features.py."
    ) from error
  layout = _flat(jax.eval_shape(init, jax.random.key(0)))
  for name in sorted(layout.keys() | tensors.keys()):
    expected = layout[name].shape if name in layout else "nothing"
    found = tensors[name].shape if name in tensors else "nothing"
    if found != expected:
      raise ValueError(
        f"{path}: for tensor {name} {expected} is expected, {found} is found."
      )
  arrays = {name: jnp.asarray(tensors[name], jnp.float32) for name in layout}
  return traverse_util.unflatten_dict(arrays, sep="/")


def save(params: Params, path: str | pathlib.Path = WEIGHTS) -> None:
  """Writes weights for `load`, in float16."""
  halves = {k: np.asarray(v, np.float16) for k, v in _flat(params).items()}
  safetensors.numpy.save_file(halves, path)
  pathlib.Path(path).chmod(0o644)  # The writer leaves it to its owner alone.


def _flat(params: Params) -> dict:
  """Nested -> flat, with names such as "image/Conv_0/kernel"."""
  return traverse_util.flatten_dict(params, sep="/")


def _unit(x: Array) -> Array:
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _pieces(caption: str) -> Iterable[str]:
  """Words, pairs of neighbours, and the letter trigrams of each word."""
  words = re.findall(r"[^\W_]+|(?<!\S)&(?!\S)", caption.lower())
  yield from words
  yield from (f"{a} {b}" for a, b in itertools.pairwise(words))
  for word in words:
    framed = f"^{word}$"
    yield from (framed[i : i + 3] + "*" for i in range(len(framed) - 2))


@functools.cache
def _bucket(piece: str) -> int:
  """A stable hash in 1..BUCKETS - 1."""
  return 1 + zlib.crc32(piece.encode()) % (BUCKETS - 1)
