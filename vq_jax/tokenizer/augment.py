"""DiffAugment: the same random changes for what is real and what is fake.

Zhao et al. 2020, arXiv:2006.10738, as released with arXiv:2111.12701. Black is
what comes in from outside, and colours are those of images in [0, 1]: the
operations work on that range; `augment` takes images in [-1, 1], as all of this
codebase does, there and back. Gradients flow to the images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax.types import Array, Key

SHIFT, HOLE = 1 / 8, 1 / 2  # Of the side of an image.


def colour(x: Array, u: tuple[Array, Array, Array]) -> Array:
  """Brightness, saturation and contrast, in this order.

  Args:
    x: images [b h w c] in [0, 1].
    u: one number in [0, 1) an image, [b], for each of the three: brightness is
      raised by u - 1/2, saturation multiplied by 2u, contrast by u + 1/2.

  Returns:
    Images [b h w c], not clipped.
  """
  brightness, saturation, contrast = (v[:, None, None, None] for v in u)
  x = x + (brightness - 0.5)
  grey = jnp.mean(x, axis=3, keepdims=True)
  x = (x - grey) * (2.0 * saturation) + grey
  mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
  return (x - mean) * (contrast + 0.5) + mean


def translation(x: Array, shift: tuple[Array, Array]) -> Array:
  """y[i, j] = x[i + dh, j + dw], black where that is outside.

  x: images [b h w c] in [0, 1]; shift: (dh, dw) in pixels, int32 [b] each.
  """

  def one(image: Array, dh: Array, dw: Array) -> Array:
    h, w, _ = image.shape
    i, j = jnp.arange(h)[:, None] + dh, jnp.arange(w) + dw
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
    return jnp.where(inside[..., None], image[i % h, j % w], 0.0)

  return jax.vmap(one)(x, *shift)


def cutout(x: Array, middle: tuple[Array, Array]) -> Array:
  """A black rectangle of half the sides, as far as it is inside.

  x: images [b h w c] in [0, 1]; middle: of it, (row, column), int32 [b] each,
  rounded up where its sides are even.
  """
  hit = []
  for size, center in zip(x.shape[1:3], middle, strict=True):
    side = _pixels(size, HOLE)
    first = center[:, None] - side // 2
    i = jnp.arange(size)
    hit.append((i >= first) & (i < first + side))
  hole = hit[0][:, :, None] & hit[1][:, None, :]
  return jnp.where(hole[..., None], 0.0, x)


def _pixels(size: int, ratio: float) -> int:
  """A fraction of a side, in whole pixels, halves up."""
  return int(size * ratio + 0.5)


def _draw_colour(key: Key, shape: tuple[int, ...]) -> tuple[Array, ...]:
  return tuple(jax.random.uniform(key, (3, shape[0])))


def _draw_translation(key: Key, shape: tuple[int, ...]) -> tuple[Array, ...]:
  """Uniform in -s..s, s an eighth of the side."""
  b, *sides = shape[:3]
  shifts = [_pixels(size, SHIFT) for size in sides]
  keys = jax.random.split(key)
  return tuple(
    jax.random.randint(k, (b,), -s, s + 1)
    for k, s in zip(keys, shifts, strict=True)
  )


def _draw_cutout(key: Key, shape: tuple[int, ...]) -> tuple[Array, ...]:
  """Any pixel; one more, at the end, where the hole has even sides."""
  b, *sides = shape[:3]
  keys = jax.random.split(key)
  return tuple(
    jax.random.randint(k, (b,), 0, size + 1 - _pixels(size, HOLE) % 2)
    for k, size in zip(keys, sides, strict=True)
  )


# What may be asked for, in the order in which it is done: draws, operation.
AUGMENTATIONS: dict[str, tuple[Callable, Callable]] = {
  "colour": (_draw_colour, colour),
  "translation": (_draw_translation, translation),
  "cutout": (_draw_cutout, cutout),
}


def augment(key: Key, images: Array, names: tuple[str, ...]) -> Array:
  """T(x): every image [b h w c] in [-1, 1] changed by draws of its own.

  Args:
    key: of the draws.
    images: what the discriminator is about to see.
    names: some of AUGMENTATIONS, done in this order; none changes nothing.

  Returns:
    Images [b h w c], about [-1, 1], not clipped.
  """
  if not names:
    return images
  x = (images + 1.0) / 2.0
  for i, name in enumerate(names):
    draw, change = AUGMENTATIONS[name]
    x = change(x, draw(jax.random.fold_in(key, i), x.shape))
  return 2.0 * x - 1.0
