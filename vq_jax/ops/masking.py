"""Which positions of each image, in static shapes: choices are masks [b n]."""

import jax.numpy as jnp

from vq_jax.types import Array


def highest(scores: Array, among: Array, count: Array) -> Array:
  """The `count` highest scores of each image among the allowed positions.

  Args:
    scores: [b n]; of equal ones the first is taken.
    among: allowed positions [b n], bool.
    count: how many [b]; all that are allowed if that is fewer.

  Returns:
    bool [b n].
  """
  order = jnp.argsort(jnp.where(among, scores, -jnp.inf), -1, descending=True)
  rank = jnp.argsort(order, -1)
  return among & (rank < count[:, None])


def without_replacement(
  log_weights: Array, gumbel: Array, among: Array, count: Array
) -> Array:
  """Draws `count` positions of each image in proportion to their weights.

  The highest sums of log-weight and noise have the law of drawing one position
  after the other among those not drawn yet (Gumbel-top-k, arXiv:1903.06059).

  Args:
    log_weights: [b n], of any sum; finite.
    gumbel: standard Gumbel noise [b n].
    among: allowed positions [b n], bool.
    count: how many [b]; all that are allowed if that is fewer.

  Returns:
    bool [b n].
  """
  return highest(log_weights + gumbel, among, count)
