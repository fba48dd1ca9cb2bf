"""The nearest examples of a reference set, such as what was trained on.

A model that had memorised its training images would draw images that are nearer
to them than new images of the same kind are: compare `nearest_distance` of
samples with that of validation images (arXiv:2111.12701, appendix C).
"""

from typing import NamedTuple

import numpy as np

from vq_jax.metrics import _fold
from vq_jax.types import Batch

NEEDS = ("real_features", "fake_features")


class State(NamedTuple):
  """The fakes, and the nearest reals so far.

  Attributes:
    k: how many are kept.
    squared: whether distances are the squares.
    fake: features float64 [b d]; [0 0] at first.
    seen: reals seen.
    index: numbers of the nearest reals, in the order they came [b k], the
      nearest first; fewer columns while fewer were seen.
    square: their squared distances [b k].
  """

  k: int
  squared: bool
  fake: np.ndarray = np.zeros((0, 0))
  seen: int = 0
  index: np.ndarray = np.zeros((0, 0), np.int64)
  square: np.ndarray = np.zeros((0, 0))


def init(k: int = 1, squared: bool = False) -> State:
  """No example yet.

  Args:
    k: how many neighbours of a fake are kept.
    squared: report squares, for features whose squared distance is the
      distance that is meant, such as `lpips.embedding`.

  Returns:
    The empty state.

  Raises:
    ValueError: k is not positive.
  """
  if k < 1:
    raise ValueError(f"k must be 1 or more, not {k}.")
  return State(k, squared)


def update(state: State, batch: Batch) -> State:
  """Adds fakes, or streams reals past them; all fakes come first.

  What is kept does not depend on how the reals were cut into batches, not even
  in its last digit: every distance is a sum of its own.

  Args:
    state: what the earlier batches gave.
    batch: `fake_features` or `real_features` [b d], or both; optional `mask`
      [b] for whichever is there. The sets may differ in size.

  Returns:
    The new state.

  Raises:
    ValueError: neither key is there, features are not finite, or a fake comes
      after a real.
  """
  features = _fold.present(batch, *NEEDS)
  if "fake_features" in features:
    state = _ask(state, _fold.finite("fake", features["fake_features"]))
  if "real_features" in features:
    state = _stream(state, _fold.finite("real", features["real_features"]))
  return state


def compute(state: State) -> dict[str, float]:
  """`nearest_distance`: the median over fakes, to the nearest real.

  Raises:
    ValueError: there was no fake, or no real.
  """
  if not state.index.size:
    raise ValueError("neighbours needs a fake and a real at least.")
  return {"nearest_distance": float(np.median(distances(state)[:, 0]))}


def distances(state: State) -> np.ndarray:
  """To the nearest reals [b k], ascending; squares if `squared`."""
  return state.square if state.squared else np.sqrt(state.square)


def _ask(state: State, fake: np.ndarray) -> State:
  """With more fakes [b d]."""
  if state.seen:
    raise ValueError("All fakes must come before the first real.")
  if len(state.fake):
    fake = np.concatenate([state.fake, fake])
  index = np.zeros((len(fake), 0), np.int64)
  return state._replace(fake=fake, index=index, square=np.zeros(index.shape))


def _stream(state: State, real: np.ndarray) -> State:
  """With the better of what was kept and more reals [b d]."""
  if len(state.fake) and real.shape[1] != state.fake.shape[1]:
    raise ValueError(
      f"Fakes of {state.fake.shape[1]} features, reals of {real.shape[1]}."
    )
  # No |x|^2 - 2 x y + |y|^2, which cancels; one fake at a time, for memory.
  shape = len(state.fake), len(real)
  square = np.array([np.square(real - row).sum(1) for row in state.fake])
  square = np.concatenate([state.square, square.reshape(shape)], 1)
  number = np.broadcast_to(state.seen + np.arange(len(real)), shape)
  index = np.concatenate([state.index, number], 1)
  # Stable: of equals the one that came first, in whatever batch.
  best = np.argsort(square, 1, kind="stable")[:, : state.k]
  return state._replace(
    seen=state.seen + len(real),
    index=np.take_along_axis(index, best, 1),
    square=np.take_along_axis(square, best, 1),
  )
