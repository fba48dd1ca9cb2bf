"""Where a codebook starts: on the latents, not around zero."""

import jax
import jax.numpy as jnp

from vq_jax.tokenizer import quantize
from vq_jax.types import Array, Key

CHUNK = 4096  # Points whose distances to all codes are in memory at a time.


def seed(key: Key, points: Array, size: int) -> Array:
  """k-means++ (Arthur and Vassilvitskii 2007): points [n d] -> [size d].

  The first code is any point; each further one is a point drawn with
  probability proportional to its squared distance from the codes so far.
  """
  key_first, key_rest = jax.random.split(key)
  first = points[jax.random.randint(key_first, (), 0, len(points))]

  def distance(code: Array) -> Array:
    return jnp.sum(jnp.square(points - code), -1)

  def draw(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    codebook, error = carry
    key = jax.random.fold_in(key_rest, k)
    code = points[jax.random.categorical(key, jnp.log(error))]
    return codebook.at[k].set(code), jnp.minimum(error, distance(code))

  codebook = jnp.zeros((size, points.shape[1])).at[0].set(first)
  start = codebook, distance(first)
  return jax.lax.fori_loop(1, size, draw, start)[0]


def kmeans(key: Key, points: Array, size: int, iterations: int = 10) -> Array:
  """A codebook [size d] of points [n d]: `seed`, then Lloyd's iterations.

  An iteration moves each code to the mean of the points it is nearest to; a
  code without points stays. The mean squared distance never rises.

  Args:
    key: of the seeds.
    points: encoder outputs, float32.
    size: K, at most n.
    iterations: of Lloyd; 0 leaves the seeds.

  Returns:
    The codebook, float32.

  Raises:
    ValueError: there are fewer points than codes.
  """
  if len(points) < size:
    raise ValueError(
      f"k-means needs at least as many latents as codes; there are"
      f" {len(points)} for {size}. Give it more images."
    )
  points = points.astype(jnp.float32)

  def move(codebook: Array, _: None) -> tuple[Array, None]:
    ids = jax.lax.map(
      lambda z: quantize.nearest(z, codebook), points, batch_size=CHUNK
    )
    counts = quantize.histogram(ids, size)[:, None]
    sums = jnp.zeros_like(codebook).at[ids].add(points)
    means = sums / jnp.maximum(counts, 1)
    return jnp.where(counts > 0, means, codebook), None

  start = seed(key, points, size)
  return jax.lax.scan(move, start, length=iterations)[0]
