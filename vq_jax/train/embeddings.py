"""Learnt embeddings of codes: where they start, and whether they collapse."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vq_jax import pictures, plugins, weights
from vq_jax.train.task import State
from vq_jax.types import Params

Config = Mapping[str, Any]


def check(net: Any, prior: Any) -> None:
  """ValueError unless the net reads embeddings where its prior has them."""
  embedded = getattr(prior, "embedded", False)
  dim = getattr(net, "code_dim", 0)
  if bool(dim) != embedded:
    wanted = "a net with code_dim > 0" if embedded else "code_dim = 0"
    raise ValueError(
      f"config.net.code_dim is {dim}, but {type(prior).__module__} needs"
      f" {wanted}."
    )


def start(config: Config, net: Any) -> Callable[[Params], Params] | None:
  """What puts embeddings in the place of fresh ones, as config.codes says.

  "normal" leaves them as the net draws them. "tokenizer" takes the codebook of
  the tokens' tokenizer, scaled to a mean square of 1, which is what the weights
  of the loss and the schedule presume. They are then trained like all others,
  unless config.optimizer.only leaves them out.

  Raises:
    ValueError: another name; the codebook does not fit, or there is none.
  """
  name = config.get("codes", "normal")
  if name not in _STARTS:
    raise ValueError(plugins.unknown(name, _STARTS, "There are no codes"))
  return _STARTS[name](config, net)


def _normal(config: Config, net: Any) -> None:
  del config, net


def _tokenizer(config: Config, net: Any) -> Callable[[Params], Params]:
  directory = pathlib.Path(config["data"]["path"]) / "tokenizer"
  _, tree = weights.load_part(directory)
  books = [
    np.asarray(value, np.float32)
    for path, value in weights.flatten(tree).items()
    if path.split(weights.SEPARATOR)[-1] == "codebook"
  ]
  shape = (net.vocab_size, net.code_dim)
  if [book.shape for book in books] != [shape]:
    has = f"one of {books[0].shape}" if books else "none"
    raise ValueError(
      f"config.codes = 'tokenizer' needs a codebook of {shape}, K codes of"
      f" config.net.code_dim; {directory} has {has}."
    )
  codes = books[0] / np.sqrt(np.mean(np.square(books[0])))

  def warm(fresh: Params) -> Params:
    old = fresh["net"]["codes"]
    table = np.concatenate([codes, old[len(codes) :]])  # MASK is the net's.
    return {**fresh, "net": {**fresh["net"], "codes": table}}

  return warm


_STARTS = {"normal": _normal, "tokenizer": _tokenizer}


def make_picture(net: Any) -> dict[str, Callable[[State], np.ndarray]]:
  """State -> how far embeddings are apart, if the net has any."""
  if not getattr(net, "code_dim", 0):
    return {}
  return {"codes": lambda state: draw(state.ema["net"]["codes"])}


def draw(codes: Any) -> np.ndarray:
  """`pictures.distances` of embeddings [K + 1 d], without that of MASK."""
  return pictures.distances(np.asarray(codes)[:-1])
