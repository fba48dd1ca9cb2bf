"""Learnt embeddings of codes: where they start, and whether they collapse."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import pictures, plugins, weights
from vq_jax.data import _loader
from vq_jax.priors import _chain, _embedded
from vq_jax.system import System, conditional_model
from vq_jax.train.request import Worded
from vq_jax.train.task import State
from vq_jax.types import Array, Batch, Key, Model, Params

Config = Mapping[str, Any]
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


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


def make_picture(prior: Any) -> dict[str, Callable[[State], np.ndarray]]:
  """State -> how far embeddings are apart, if the prior has any."""
  if not getattr(prior, "embedded", False):
    return {}

  def draw(state: State) -> np.ndarray:
    codes = prior.table(Model(None, state.ema["net"]["codes"]))
    return pictures.distances(np.asarray(codes)[:-1])  # Without MASK.

  return {"codes": draw}


def profile(
  prior: Any, key: Key, model: Callable[[Params, Batch], Model]
) -> Callable[[Params, Batch], dict[str, Array]]:
  """What the network says at TIMES: where there is something to learn.

  A cross-entropy of 0 is noise that hides nothing, one of ln K noise that hides
  all; a schedule should have neither for long (arXiv:2410.14758, section 4.3).

  Args:
    prior: of embeddings.
    key: of the noise, the same at all times.
    model: (params, a batch) -> Model.

  Returns:
    (params, a batch with ids [b n], mask [b]) -> nats per token,
    `cross_entropy_t10` to `_t90`, and `entropy_t10` to `_t90` of p(x | z_t).
  """

  def run(params: Params, batch: Batch) -> dict[str, Array]:
    view, x = model(params, batch), batch["ids"]
    weight = batch["mask"] / jnp.sum(batch["mask"])

    def at(t: Array) -> dict[str, Array]:
      t = jnp.full(x.shape[:1], t)
      log_probs = prior.posterior(view).denoise(
        prior.corrupt(key, view, x, t), t
      )
      found = {
        "cross_entropy": _chain.nats(log_probs, x),
        "entropy": _embedded.entropy(log_probs),
      }
      return {name: jnp.mean(v, 1) @ weight for name, v in found.items()}

    found = jax.lax.map(at, jnp.array(TIMES))
    return {
      f"{name}_t{round(100 * t)}": values[i]
      for name, values in found.items()
      for i, t in enumerate(TIMES)
    }

  return run


def measure(
  config: Config, system: System, prior: Any, source: Worded, params: Params
) -> dict[str, float]:
  """`profile` of the first batch of validation tokens."""
  section, keys = config["evaluate"], source.asked(system)
  batches = _loader.padded(source, ("ids", *keys), section["batch"])

  def model(params: Params, batch: Batch) -> Model:
    return conditional_model(system, params, {k: batch[k] for k in keys})

  run = jax.jit(profile(prior, jax.random.key(section["seed"]), model))
  found = run(params, next(batches))
  return {name: float(value) for name, value in found.items()}
