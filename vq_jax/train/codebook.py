"""What moves a codebook besides its gradient, and how well it is used."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import pictures, pipeline, plugins
from vq_jax.data import _loader
from vq_jax.metrics import codebook
from vq_jax.tokenizer import _kmeans, quantize, vqgan
from vq_jax.types import Array, Key, Metrics, Params

Config = Mapping[str, Any]
Source = Sequence[Mapping[str, Any]]
COUNTED = 2_000  # Images behind the picture.


@dataclasses.dataclass(frozen=True)
class Kmeans:
  """config.kmeans: whether codes start at the centres of latents.

  Attributes:
    images: how many images' latents; 0 leaves the codebook as it was drawn.
    iterations: of Lloyd's algorithm.
  """

  images: int = 0
  iterations: int = 10


class CodebookState(NamedTuple):
  """What a codebook carries from step to step.

  Attributes:
    idle: steps since each code was last used [K], int32.
    counts: of `_ema.update` [K], float32; ones if codes follow a gradient.
  """

  idle: Array
  counts: Array


def check(tokenizer: Any, config: Config) -> None:
  """ValueError for what this tokenizer's quantizer cannot be trained with."""
  if tokenizer.kept_codes:
    raise ValueError(
      "A tokenizer with a reduced vocabulary is converted and used, not"
      " trained: set config.tokenizer.kept_codes to 0."
    )
  asked = {
    "revive_after": config["revive_after"],
    "kmeans.images": _kmeans_section(config).images,
  }
  for name, value in asked.items():
    if value and tokenizer.quantizer not in vqgan.NEAREST:
      raise ValueError(
        f"config.{name} = {value} puts codes onto latents, which"
        f" quantizer={tokenizer.quantizer!r} does not look up by distance: set"
        " it to 0."
      )


def start(tokenizer: Any) -> CodebookState | tuple:
  """The state before the first step; empty for what needs none."""
  if tokenizer.quantizer not in vqgan.NEAREST:
    return ()
  k = tokenizer.vocab_size
  return CodebookState(jnp.zeros(k, jnp.int32), jnp.ones(k, jnp.float32))


def make_codebook_step(tokenizer: Any, patience: int) -> Callable[..., tuple]:
  """The step after the optimizer's step.

  (key, state, weights before, weights after, their average, codes) -> (weights,
  average, state, metrics), where codes are `vqgan.Codes` of this batch. A code
  that follows the latents does so; then a code that died is revived, counts
  as one seen once, and its average starts over.

  Args:
    tokenizer: a Linen tokenizer.
    patience: steps without use that make a code dead; 0 revives none.
  """
  if tokenizer.quantizer not in vqgan.NEAREST:
    return lambda key, state, old, params, ema, codes: (params, ema, state, {})
  quantizer = vqgan.make_quantizer(
    tokenizer.quantizer,
    tokenizer.vocab_size,
    tokenizer.code_dim,
    tokenizer.quantizer_options,
  )
  follow = getattr(quantizer, "follow", None)

  def codebook_step(
    key: Key,
    state: CodebookState,
    old: Params,
    params: Params,
    ema: Params,
    codes: Any,
  ) -> tuple[Params, Params, CodebookState, Metrics]:
    table, (idle, counts) = _table(params), state
    seen = codes.latents, codes.ids
    if follow:
      # From the codes before the step: weight decay must not touch them.
      table, counts = follow(_table(old), counts, *seen)
    if not patience:
      return _put(params, table), ema, CodebookState(idle, counts), {}
    table, idle, revived = quantize.revive(
      key, table, idle, *seen, patience=patience
    )
    state = CodebookState(idle, jnp.where(revived, 1.0, counts))
    ema = _put(ema, jnp.where(revived[:, None], table, _table(ema)))
    metrics = {"revived_codes": jnp.sum(revived)}
    return _put(params, table), ema, state, metrics

  return codebook_step


def kmeans_start(
  tokenizer: Any, config: Config, source: Source
) -> Callable[[Params], Params] | None:
  """`Task.warm`: fresh weights -> the same, with codes on their own latents.

  None unless config.kmeans asks for it. The codebook is a function of the
  weights and config.seed.

  Raises:
    ValueError: when called, if the images have fewer latents than codes.
  """
  section = _kmeans_section(config)
  if not section.images:
    return None

  def warm(params: Params) -> Params:
    order = np.random.default_rng(config["seed"]).permutation(len(source))
    chosen = [source[int(i)] for i in order[: section.images]]
    encode = jax.jit(functools.partial(_latents, tokenizer))
    points = np.concatenate(
      [
        np.asarray(encode(params, rows["image"]))[rows["mask"]]
        for rows in _loader.padded(
          chosen, ("image",), config["evaluate"]["batch"]
        )
      ]
    ).reshape(-1, tokenizer.code_dim)
    table = jax.jit(_kmeans.kmeans, static_argnums=(2, 3))(
      jax.random.key(config["seed"]),
      points,
      tokenizer.vocab_size,
      section.iterations,
    )
    return _put(params, np.asarray(table))

  return warm


def picture(
  tokenizer: Any, config: Config, source: Source, params: Params
) -> np.ndarray:
  """How often images of the source choose each code: `pictures.histogram`."""
  encode = jax.jit(functools.partial(pipeline.encode, tokenizer))
  batch, limit = (config["evaluate"][name] for name in ("batch", "limit"))
  counts = codebook.init(tokenizer.vocab_size)
  for rows in _loader.padded(source, ("image",), batch, min(limit, COUNTED)):
    ids = np.asarray(encode(params, rows["image"]))
    counts = codebook.update(counts, {"ids": ids, "mask": rows["mask"]})
  return pictures.histogram(counts)


def _kmeans_section(config: Config) -> Kmeans:
  """config.kmeans; ValueError for a key that it does not have."""
  return plugins.call(Kmeans, config.get("kmeans", {}), "config.kmeans")


def _latents(tokenizer: Any, params: Params, images: Array) -> Array:
  """uint8 images [b h w c] -> [b h' w' d]."""
  images = pipeline.to_float(images)
  return tokenizer.apply({"params": params}, images)[1].latents


def _table(params: Params) -> Array:
  """The codebook [K d]."""
  return params["quantize"]["codebook"]


def _put(params: Params, table: Array) -> Params:
  """The same weights with another codebook."""
  return {**params, "quantize": {**params["quantize"], "codebook": table}}
