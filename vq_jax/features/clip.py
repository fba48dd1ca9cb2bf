"""CLIP's two towers as judges: do pictures show their captions.

arXiv:2103.00020, figure 3. The text tower is that of text/clip.py; here its
feature at the end of the caption is projected to where pictures are. CLIP score
(arXiv:2104.08718) is a cosine of the two, CMMD (arXiv:2401.09603) a distance of
sets of the pictures' embeddings. ViT towers only, with CLIP's own GELU.
"""

import pathlib
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vq_jax.features import Features, _frozen
from vq_jax.text import clip
from vq_jax.types import Array, Params

NAME = "clip"
FAMILY = "clip_towers"
SOURCE = f"model.safetensors of {clip.SOURCE}"

# Of the channels of CLIP's training images, in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ImageTower(nn.Module):
  """Normalised images -> the feature of the whole picture.

  Attributes:
    size: pixels a side.
    patch: pixels a side of a token.
    dim: features of a token.
    layers: transformer blocks.
    heads: attention heads.
  """

  size: int
  patch: int
  dim: int
  layers: int
  heads: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """[b size size 3] -> [b dim]."""
    sides = (self.patch, self.patch)
    x = nn.Conv(self.dim, sides, sides, "VALID", use_bias=False, name="patch")(
      images
    )
    x = einops.rearrange(x, "b h w d -> b (h w) d")
    first = self.param("first", clip.NORMAL, (self.dim,))
    first = jnp.broadcast_to(first, (len(x), 1, self.dim))
    x = jnp.concatenate([first, x], 1)
    x += self.param("positions", clip.NORMAL, x.shape[1:])
    x = clip.norm("first_norm")(x)
    x, _ = clip.blocks(self.layers, self.heads, causal=False)(x)
    return clip.norm("norm")(x[:, 0])


def towers(config: dict[str, Any], merges: str = "") -> tuple[Any, Any]:
  """The image tower and the text encoder of a converted CLIP's config."""
  text = clip.Encoder(
    weights="", merges=merges, normalize=False, **config["text"]
  )
  return ImageTower(**config["image"]), text


def abstract(config: dict[str, Any]) -> Params:
  """The parameters' shapes: image, text, and a projection of each."""
  image, text = towers(config)
  sides = (1, image.size, image.size, 3)
  inputs = {
    "image": (image, jax.ShapeDtypeStruct(sides, jnp.float32)),
    "text": (text, jax.ShapeDtypeStruct((1, text.length), jnp.int32)),
  }
  params = {}
  for name, (module, x) in inputs.items():
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    kernel = jax.ShapeDtypeStruct((module.dim, config["dim"]), jnp.float32)
    params[name] = shapes["params"]
    params[f"{name}_projection"] = {"kernel": kernel}
  return params


def crop(images: Array, size: int) -> Array:
  """The middle square of images, as CLIP prepares them.

  The shorter side becomes `size` by Pillow's bicubic filter, which makes the
  columns, then the rows, and rounds to bytes after each.

  Args:
    images: uint8 [b h w c].
    size: pixels a side of the result.

  Returns:
    float32 [b size size c], integers in 0..255.
  """
  x = images.astype(jnp.float32)
  h, w = x.shape[1:3]
  short = min(h, w)
  h, w = size * h // short, size * w // short
  for axis, side in ((2, w), (1, h)):
    shape = (*x.shape[:axis], side, *x.shape[axis + 1 :])
    x = jax.image.resize(x, shape, "cubic", antialias=True)
    x = jnp.clip(jnp.floor(x + 0.5), 0.0, 255.0)
  top, left = round((h - size) / 2), round((w - size) / 2)
  return x[:, top : top + size, left : left + size]


def image_embedding(tower: ImageTower, params: Params, images: Array) -> Array:
  """uint8 [b h w 3] -> [b d], not normalised."""
  x = (crop(images, tower.size) / 255.0 - jnp.array(MEAN)) / jnp.array(STD)
  x = tower.apply({"params": params["image"]}, x)
  return x @ params["image_projection"]["kernel"]


def text_embedding(encoder: Any, params: Params, words: Array) -> Array:
  """Ids [b m] -> [b d], not normalised: the feature at the caption's end."""
  x = encoder.apply({"params": params["text"]}, words)
  end = jnp.argmax(words, axis=1)  # It has the highest id.
  x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
  return x @ params["text_projection"]["kernel"]


def extractor(weights: str) -> Features:
  """The network for CLIP score and CMMD.

  `images` gives "embedding", of unit length, and "pool", the same before.

  Args:
    weights: the directory that `--mode=convert --family=clip_towers` wrote. It
      reads captions if there is also CLIP's merges.txt in it.

  Raises:
    FileNotFoundError: a file is missing; says which to get and what to run.
    ValueError: it holds something else.
  """
  try:
    config, found, source = _frozen.read(weights, NAME)
  except FileNotFoundError as error:
    told = _frozen.missing(weights, FAMILY, SOURCE, "model.safetensors")
    raise FileNotFoundError(told) from error
  params = _frozen.fitted(found, abstract(config), weights)
  merges = pathlib.Path(weights, "merges.txt")
  tower, encoder = towers(config, str(merges))

  def of_images(params: Params, images: Array) -> dict[str, Array]:
    pool = image_embedding(tower, params, images)
    return {"pool": pool, "embedding": _unit(pool)}

  images = _frozen.of_images(of_images, params)
  network = Features(NAME, _frozen.digest(params), source, images)
  if not merges.is_file():
    return network
  encoder.words([""])  # A wrong list is refused now, not after the images.
  embed = _frozen.whole(
    lambda params, words: _unit(text_embedding(encoder, params, words))
  )
  texts = lambda captions: embed(params, encoder.words(captions))  # noqa: E731
  return network._replace(texts=texts)


def _unit(x: Array) -> Array:
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
