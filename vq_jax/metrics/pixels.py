"""Code length of images, in bits per dimension: tokens, and pixels given them.

An image costs the bound of its tokens under a prior, and the density of its
pixels under the tokenizer's normal distribution (arXiv:2111.12701, section
4.1.1, where it is said to be 2.72 for 5 bits a channel). A density on [0, 1]
becomes the probability of one of L levels by its mean over a bin of width 1/L,
which is log2(L) bits a dimension: uniform densities cost that and no more.
"""

import math
from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("pixel_nats", "bits")


class State(NamedTuple):
  """Sizes of an image, and moments of both parts [2] in bits a dimension."""

  tokens: int
  dims: int
  levels: int
  parts: _fold.Moments = _fold.Moments()


def init(tokens: int, dims: int, levels: int = 256) -> State:
  """No example yet.

  Args:
    tokens: n, of an image.
    dims: numbers in an image, h w c.
    levels: that a number can have; those of `pixel_nats`.

  Returns:
    The empty state.

  Raises:
    ValueError: a size is not positive.
  """
  if min(tokens, dims, levels) < 1:
    raise ValueError(
      f"tokens, dims and levels are 1 or more, not {tokens}, {dims}, {levels}."
    )
  return State(tokens, dims, levels)


def update(state: State, batch: Batch) -> State:
  """Adds b more examples.

  Args:
    state: what the earlier batches gave.
    batch: `pixel_nats` [b], -log density of an image on [0, 1] given its
      tokens, in nats, averaged over bins; `bits` [b], bits per token; optional
      `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: a key is missing, or is not [b] finite numbers.
  """
  nats, bits = _fold.rows(batch, *NEEDS)
  if nats.ndim != 1 or bits.ndim != 1:
    raise ValueError(
      "pixel_nats and bits must be [b], one number an example; got"
      f" {nats.shape} and {bits.shape}."
    )
  pair = _fold.finite("pixel_nats and bits", np.stack([nats, bits], 1))
  scale = 1.0 / (math.log(2.0) * state.dims), state.tokens / state.dims
  offset = math.log2(state.levels), 0.0
  return state._replace(parts=state.parts.add(pair * scale + offset))


def compute(state: State) -> dict[str, float]:
  """The mean over examples and its uncertainty.

  Returns:
    `bits_per_dim`, its parts `pixel_bits_per_dim` and `token_bits_per_dim`, and
    `bits_per_dim_stderr` = s / sqrt(examples) of the sum, with the unbiased
    s^2: NaN for a single example.

  Raises:
    ValueError: no example was seen.
  """
  parts = state.parts
  if not parts.count:
    raise ValueError("The metric has seen no example.")
  error = math.nan
  if parts.count > 1:
    error = math.sqrt(parts.covariance().sum() / parts.count)
  pixels, tokens = parts.mean.tolist()
  return {
    "bits_per_dim": pixels + tokens,
    "bits_per_dim_stderr": error,
    "pixel_bits_per_dim": pixels,
    "token_bits_per_dim": tokens,
  }
