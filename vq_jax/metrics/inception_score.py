"""Inception score (Salimans et al. 2016, arXiv:1606.03498).

As torch-fidelity computes it: the samples are shuffled and split, and the score
is that of a split. For published numbers the logits are Inception's without the
bias of its last layer.
"""

import itertools
from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold, _rows
from vq_jax.types import Batch

NEEDS = ("fake_logits",)


class State(NamedTuple):
  """How samples are split, and their logits."""

  splits: int
  seed: int
  logits: _rows.Rows = _rows.Rows()


def init(splits: int = 10, seed: int = 2020) -> State:
  """No sample yet.

  Args:
    splits: parts of which each has a score.
    seed: of numpy's RandomState, whose permutation shuffles the samples.

  Returns:
    The empty state.

  Raises:
    ValueError: splits is not positive.
  """
  if splits < 1:
    raise ValueError(f"splits must be 1 or more, not {splits}.")
  return State(splits, seed)


def update(state: State, batch: Batch) -> State:
  """Adds b more samples.

  Args:
    state: what the earlier batches gave.
    batch: `fake_logits` [b c] of c classes; optional `mask` [b] and `index`
      [b], numbers of the samples: without them the splits depend on the order
      of the batches.

  Returns:
    The new state.

  Raises:
    ValueError: the key is missing, or logits of other classes, or not finite.
  """
  _fold.rows(batch, *NEEDS)
  return state._replace(logits=state.logits.add(NEEDS[0], batch))


def compute(state: State) -> dict[str, float]:
  """exp of the mean KL(p(y|x) || p(y)), p(y) the mean of p(y|x) in the split.

  Returns:
    `inception_score`, the mean over splits, and `inception_score_std`, their
    standard deviation.

  Raises:
    ValueError: there are fewer samples than splits.
  """
  logits, splits = state.logits.joined(), state.splits
  n = len(logits)
  if n < splits:
    raise ValueError(
      f"inception_score needs {splits} samples or more, not {n}."
    )
  order = np.random.RandomState(state.seed).permutation(n)
  edges = np.arange(splits + 1) * n // splits
  scores = [
    _score(logits[order[first:last]].astype(np.float64))
    for first, last in itertools.pairwise(edges.tolist())
  ]
  return {
    "inception_score": float(np.mean(scores)),
    "inception_score_std": float(np.std(scores)),
  }


def _score(logits: np.ndarray) -> float:
  """The score of one split [m c]."""
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  p = np.exp(log_p)
  # A class that no sample has: 0 log 0 = 0.
  marginal = np.log(np.maximum(p.mean(axis=0), np.finfo(float).tiny))
  return float(np.exp((p * (log_p - marginal)).sum(axis=1).mean()))
