"""The system on one screen: encode -> model -> sample -> decode.

Every function is pure and takes weights as arguments; `build_*` turn config
sections into the modules they name.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import models, plugins, weights
from vq_jax.types import Array, Condition, Key, Model, Params

Section = Mapping[str, Any]
Draw = Callable[..., Array]  # (key, model, prior, (b, n), *, known) -> ids


def build_tokenizer(section: Section) -> Any:
  """config.tokenizer -> a Linen module with encode and decode."""
  return plugins.build("tokenizer", "Tokenizer", section, "config.tokenizer")


def build_net(section: Section) -> Any:
  """config.net -> a Linen module (z, t, cond) -> logits."""
  return plugins.build("nets", "Net", section, "config.net")


def build_prior(section: Section) -> Any:
  """config.prior -> a frozen dataclass with loss, and the sampling methods."""
  return plugins.build("priors", "Prior", section, "config.prior")


def build_sampler(section: Section, prior: Any, what: str = "sample") -> Draw:
  """config.sampler -> its `sample`, with the options bound.

  Raises:
    ValueError: the prior lacks a method that the sampler needs, or an option is
      unknown. Nothing has been compiled by then.
  """
  options = dict(section)
  name = options.pop("name", "")
  module = plugins.resolve("samplers", name)
  missing = [need for need in module.NEEDS if not hasattr(prior, need)]
  if missing:
    raise ValueError(
      f"The sampler {name!r} needs a prior with {', '.join(missing)};"
      f" {type(prior).__module__} has none."
    )
  draw = getattr(module, what)
  given = ("key", "model", "prior", "shape", "known")
  plugins.check(draw, options, "config.sampler", given)
  return functools.partial(draw, **options)


def init_tokenizer(tokenizer: Any, key: Key) -> Params:
  """Fresh weights; they do not depend on the image size."""
  side = tokenizer.factor
  blank = jnp.zeros((1, side, side, tokenizer.image_channels))
  return tokenizer.init(key, blank)["params"]


def init_net(net: Any, key: Key) -> Params:
  """Fresh weights."""
  z = jnp.zeros((1, int(np.prod(net.grid))), jnp.int32)
  label = jnp.zeros(1, jnp.int32) if net.labels else None
  return net.init(key, z, jnp.zeros(1), Condition(label))["params"]


def load_tokenizer(directory: pathlib.Path) -> tuple[Any, Params]:
  """(module, weights) of an exported tokenizer.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the weights do not fit the config beside them; names the tensor.
  """
  section, tree = weights.load_part(directory)
  tokenizer = build_tokenizer(section)
  wanted = jax.eval_shape(
    functools.partial(init_tokenizer, tokenizer), jax.random.key(0)
  )
  weights.check(weights.flatten(tree), weights.flatten(wanted), str(directory))
  return tokenizer, tree


def to_float(images: Array) -> Array:
  """uint8 [b h w c] -> float32 in [-1, 1], what tokenizers read."""
  return images.astype(jnp.float32) / 127.5 - 1.0


def to_unit(images: Array) -> Array:
  """A tokenizer's output [b h w c] -> float32 in [0, 1], clipped."""
  return jnp.clip((images + 1.0) / 2.0, 0.0, 1.0)


def to_uint8(images: Array) -> np.ndarray:
  """Images in [0, 1] -> uint8, rounded, on the host."""
  return np.asarray(jnp.round(images * 255.0).astype(jnp.uint8))


def encode(tokenizer: Any, params: Params, images: Array) -> Array:
  """uint8 images [b h w c] -> ids [b n]."""
  return tokenizer.apply({"params": params}, to_float(images), method="encode")


def decode(
  tokenizer: Any, params: Params, ids: Array, grid: tuple[int, int]
) -> Array:
  """ids [b n] in 0..K-1 -> images [b h w c] in [0, 1]."""
  images = tokenizer.apply({"params": params}, ids, grid, method="decode")
  return to_unit(images)


def make_model(
  net: Any, params: Params, cond: Condition, dropout: Key | None = None
) -> Model:
  """Closes a network over weights and condition; a dropout key trains it."""
  rngs = None if dropout is None else {"dropout": dropout}

  def denoise(z: Array, t: Array) -> Array:
    logits = net.apply(
      {"params": params}, z, t, cond, train=dropout is not None, rngs=rngs
    )
    return jax.nn.log_softmax(logits)

  return Model(denoise, params.get("codes"))


def adapt(
  net: Any,
  params: Params,
  label: Array | None,
  *,
  guidance: float = 0.0,
  top_p: float = 1.0,
  top_k: int | None = None,
  temperature: float = 1.0,
) -> Model:
  """The model that is sampled: guided, then truncated, then tempered.

  label: [b] or None.

  Raises:
    ValueError: guidance without a condition.
  """
  if not guidance:
    model = make_model(net, params, Condition(label))
  elif label is None:
    raise ValueError(
      "config.sample.guidance needs a conditional net (config.net.labels)."
    )
  else:
    null = jnp.full_like(label, net.labels)
    both = Condition(jnp.concatenate([label, null]))
    model = models.guide(make_model(net, params, both), guidance)
  model = models.truncate(model, top_p=top_p, top_k=top_k)
  return models.temper(model, temperature)


def generate(
  key: Key,
  indices: Array,
  labels: Array | None,
  *,
  net: Any,
  params: Params,
  prior: Any,
  draw: Draw,
  **transforms: Any,
) -> Array:
  """Draws image `indices[i]` of the run that `key` stands for.

  Each image has a key of its own, so that it depends on (key, index) alone:
  not on its batch, nor on the mesh.

  Args:
    key: of the whole run.
    indices: numbers of the images [b].
    labels: class ids [b], or None.
    net: a Linen net.
    params: its weights.
    prior: whose chain is run.
    draw: from `build_sampler`.
    **transforms: of `adapt`.

  Returns:
    What `draw` returns, with the batch axis of its single images replaced by b.
  """
  n = int(np.prod(net.grid))

  def one(index: Array, label: Array | None) -> Array:
    label = None if label is None else label[None]
    model = adapt(net, params, label, **transforms)
    return draw(jax.random.fold_in(key, index), model, prior, (1, n))

  ids = jax.vmap(one)(indices, labels)  # [b .. 1 n]
  return jnp.squeeze(ids, -2)
