"""How much of a codebook is used."""

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("ids",)


def init(vocab_size: int) -> np.ndarray:
  """Zero counts [K] of the `vocab_size` codes."""
  return np.zeros(vocab_size, np.int64)


def update(state: np.ndarray, batch: Batch) -> np.ndarray:
  """Adds the counts of `ids` [b n].

  Args:
    state: counts so far [K].
    batch: `ids` [b n], integers in 0..K-1; optional `mask` [b].

  Returns:
    The new counts [K].

  Raises:
    ValueError: the key is missing, or an id is out of range.
  """
  (ids,) = _fold.rows(batch, "ids")
  return state + _fold.count_ids(ids, len(state))


def compute(state: np.ndarray) -> dict[str, float]:
  """The share of the codebook in use.

  Returns:
    `codebook_usage`, the fraction of codes seen at least once, and
    `codebook_perplexity`, 2^H for the entropy H of the codes in bits: the
    number of equally frequent codes that would have the same entropy.

  Raises:
    ValueError: no token was seen.
  """
  if not state.sum():
    raise ValueError("The metric has seen no example.")
  p = state[state > 0] / state.sum()
  return {
    "codebook_usage": float(np.mean(state > 0)),
    "codebook_perplexity": float(np.exp2(-np.sum(p * np.log2(p)))),
  }
