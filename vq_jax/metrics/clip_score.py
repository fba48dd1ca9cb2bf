"""Does an image show its caption: the cosine of their CLIP embeddings."""

import math

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("image_embedding", "text_embedding")


def init() -> _fold.Moments:
  """No pair yet."""
  return _fold.Moments()


def update(state: _fold.Moments, batch: Batch) -> _fold.Moments:
  """Adds b images, each with its own caption.

  Args:
    state: what the earlier batches gave.
    batch: `image_embedding`, `text_embedding` [b e] of any length; optional
      `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: a key is missing, shapes differ, an embedding is zero or not
      finite.
  """
  image, text = _fold.rows(batch, *NEEDS)
  if image.shape != text.shape:
    raise ValueError(f"Embeddings differ: {image.shape} and {text.shape}.")
  pairs = _fold.unit(NEEDS[0], image) * _fold.unit(NEEDS[1], text)
  return state.add(np.sum(pairs, axis=1, keepdims=True))


def compute(state: _fold.Moments) -> dict[str, float]:
  """The mean cosine and its uncertainty.

  Returns:
    `clip_score` in [-1, 1], neither scaled nor clipped at 0, and
    `clip_score_stderr` = s / sqrt(pairs) with the unbiased s^2: NaN for a
    single pair.

  Raises:
    ValueError: no pair was seen.
  """
  if not state.count:
    raise ValueError("The metric has seen no example.")
  error = math.nan
  if state.count > 1:
    error = math.sqrt(state.covariance().item() / state.count)
  return {"clip_score": state.mean.item(), "clip_score_stderr": error}
