"""Is drawn text made of words, and is it new: rows of ids between blanks.

A word is a run of ids without a blank, and a text the sequence of its words.
What a model has learnt of spelling shows in words; what it has learnt by heart,
in whole texts.
"""

import itertools
from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("ids",)

Word = tuple[int, ...]
Text = tuple[Word, ...]


class State(NamedTuple):
  """The texts of both splits, and those that were drawn.

  Attributes:
    train: texts that were trained on.
    validation: texts of the same kind that were not.
    blank: the id between words.
    drawn: what is judged.
  """

  train: frozenset[Text]
  validation: frozenset[Text]
  blank: int
  drawn: tuple[Text, ...] = ()


def init(train: np.ndarray, validation: np.ndarray, blank: int = 0) -> State:
  """Nothing drawn yet; the ids of the training and validation texts [N n]."""
  known, unseen = (
    frozenset(_text(row, blank) for row in np.asarray(ids).tolist())
    for ids in (train, validation)
  )
  return State(known, unseen, blank)


def update(state: State, batch: Batch) -> State:
  """Adds drawn texts.

  Args:
    state: what the earlier batches gave.
    batch: `ids` [b n], integers; optional `mask` [b].

  Returns:
    The new state.

  Raises:
    ValueError: the key is missing.
  """
  (ids,) = _fold.rows(batch, "ids")
  drawn = tuple(_text(row, state.blank) for row in ids.tolist())
  return state._replace(drawn=state.drawn + drawn)


def compute(state: State) -> dict[str, float]:
  """Shares in [0, 1].

  Returns:
    Of the drawn words, `known_words` are in a training text, and `unseen_words`
    in validation texts only; where no word was drawn at all, both are 0. Of the
    drawn texts, `known_texts` are training texts, `unseen_texts` validation
    texts, and `distinct_texts` are left when each is counted once.

  Raises:
    ValueError: nothing was drawn.
  """
  if not state.drawn:
    raise ValueError("The metric has seen no example.")
  words = list(itertools.chain(*state.drawn))
  known = set(itertools.chain(*state.train))
  unseen = set(itertools.chain(*state.validation)) - known
  return {
    "known_words": _share(words, known),
    "unseen_words": _share(words, unseen),
    "known_texts": _share(state.drawn, state.train),
    "unseen_texts": _share(state.drawn, state.validation),
    "distinct_texts": len(set(state.drawn)) / len(state.drawn),
  }


def _share(found: Sequence, among: Set) -> float:
  return sum(one in among for one in found) / max(len(found), 1)


def _text(row: list[int], blank: int) -> Text:
  runs = itertools.groupby(row, lambda i: i == blank)
  return tuple(tuple(run) for between, run in runs if not between)
