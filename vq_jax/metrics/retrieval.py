"""Does an image say its caption: image -> caption among all captions seen."""

from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("image_embedding", "text_embedding")

_ROWS = 512  # Similarities exist for that many images at a time.
_TIE = 1e-9  # Equal captions differ by the rounding of a float64 product.


class State(NamedTuple):
  """Unit embeddings, float64 [b e], one array a batch."""

  image: tuple[np.ndarray, ...] = ()
  text: tuple[np.ndarray, ...] = ()


def init() -> State:
  """No pair yet."""
  return State()


def update(state: State, batch: Batch) -> State:
  """Adds b images, each with its own caption.

  Args:
    state: what the earlier batches gave.
    batch: `image_embedding`, `text_embedding` [b e] of any length (they are
      normalised here: the similarity is the cosine); optional `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: a key is missing, shapes differ, an embedding is zero or not
      finite.
  """
  image, text = _fold.rows(batch, *NEEDS)
  if image.shape != text.shape:
    raise ValueError(f"Embeddings differ: {image.shape} and {text.shape}.")
  return State(
    (*state.image, _fold.unit(NEEDS[0], image)),
    (*state.text, _fold.unit(NEEDS[1], text)),
  )


def compute(state: State) -> dict[str, float]:
  """Ranks of the images' own captions, 1 the best.

  Captions that tie share their mean rank, so an encoder that maps everything
  to one point scores like chance and not like an oracle.

  Returns:
    `retrieval_median_rank`, `retrieval_mean_reciprocal_rank`,
    `retrieval_recall_at_1` and `retrieval_recall_at_10` (fractions of images
    whose caption is among the first).

  Raises:
    ValueError: no pair was seen.
  """
  if not sum(map(len, state.image)):
    raise ValueError("The metric has seen no example.")
  ranks = _ranks(np.concatenate(state.image), np.concatenate(state.text))
  return {
    "retrieval_median_rank": float(np.median(ranks)),
    "retrieval_mean_reciprocal_rank": float(np.mean(1.0 / ranks)),
    "retrieval_recall_at_1": float(np.mean(ranks <= 1)),
    "retrieval_recall_at_10": float(np.mean(ranks <= 10)),
  }


def _ranks(image: np.ndarray, text: np.ndarray) -> np.ndarray:
  """Rank of row i of `text` for row i of `image`: [b e] twice -> [b]."""
  ranks = np.empty(len(image))
  for i in range(0, len(image), _ROWS):
    similarity = image[i : i + _ROWS] @ text.T
    rows = np.arange(len(similarity))
    own = similarity[rows, i + rows][:, None]
    better = (similarity > own + _TIE).sum(axis=1)
    equal = (np.abs(similarity - own) <= _TIE).sum(axis=1)  # Itself as well.
    ranks[i : i + _ROWS] = better + (1 + equal) / 2
  return ranks
