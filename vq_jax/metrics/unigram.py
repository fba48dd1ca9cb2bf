"""What a prior must beat: the code length of tokens drawn independently."""

import math
from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("ids",)


class State(NamedTuple):
  """Counts [K] of each code in the training and in the validation ids."""

  train: np.ndarray
  validation: np.ndarray


def init(
  vocab_size: int,
  counts: np.ndarray | None = None,
  train_ids: np.ndarray | None = None,
) -> State:
  """The unigram distribution of the training set.

  Args:
    vocab_size: K.
    counts: how often each code occurs in the training set [K], or
    train_ids: the training set itself, ids of any shape. Just one of the two.

  Returns:
    A state that has seen no validation ids.

  Raises:
    ValueError: both or none given, counts that are not [K], ids out of range.
  """
  if (counts is None) == (train_ids is None):
    raise ValueError("unigram needs counts or train_ids, and not both.")
  if counts is None:
    counts = _fold.count_ids(np.asarray(train_ids), vocab_size)
  counts = np.asarray(counts)
  if counts.shape != (vocab_size,) or counts.min() < 0:
    raise ValueError(
      f"counts must be [{vocab_size}] and none negative; got {counts.shape}."
    )
  return State(counts, np.zeros(vocab_size, np.int64))


def update(state: State, batch: Batch) -> State:
  """Adds validation tokens.

  Args:
    state: what the earlier batches gave.
    batch: `ids` [b n], integers in 0..K-1; optional `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: the key is missing, or an id is out of range.
  """
  (ids,) = _fold.rows(batch, "ids")
  counts = _fold.count_ids(ids, len(state.train))
  return state._replace(validation=state.validation + counts)


def compute(state: State) -> dict[str, float]:
  """Two upper bounds that need no network.

  Returns:
    `unigram_bits_per_token`: mean of -log2 p over the validation tokens, where
    p = (count + 1) / (total + K) is Laplace's rule on the training counts; and
    `uniform_bits_per_token` = log2 K.

  Raises:
    ValueError: no validation token was seen.
  """
  train, validation = state
  if not validation.sum():
    raise ValueError("The metric has seen no example.")
  p = (train + 1.0) / (train.sum() + len(train))
  bits = -np.dot(validation, np.log2(p)) / validation.sum()
  return {
    "unigram_bits_per_token": float(bits),
    "uniform_bits_per_token": math.log2(len(train)),
  }
