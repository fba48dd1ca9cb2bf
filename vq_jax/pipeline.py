"""The system on one screen: encode -> model -> sample -> decode.

Every function is pure and takes weights as arguments; `build_*` turn config
sections into the modules they name.
"""

import functools
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import models, plugins, weights
from vq_jax.ops import tiling
from vq_jax.system import System, conditional_model
from vq_jax.types import Array, Key, Model, Params

Section = Mapping[str, Any]
Draw = Callable[..., Array]  # (key, model, prior, (b, n), *, known) -> ids


def build_tokenizer(section: Section) -> Any:
  """config.tokenizer -> a Linen module with encode and decode."""
  return plugins.build("tokenizer", "Tokenizer", section, "config.tokenizer")


def build_prior(section: Section) -> Any:
  """config.prior -> a frozen dataclass with loss, and the sampling methods."""
  return plugins.build("priors", "Prior", section, "config.prior")


def build_sampler(
  section: Section,
  prior: Any,
  what: str = "sample",
  *,
  canvas: Sequence[int] = (),
) -> Draw:
  """config.sampler -> its `sample`, with the options bound.

  Args:
    section: config.sampler.
    prior: whose chain is run.
    what: a function of the sampler's module.
    canvas: (H, W) in tokens of what is drawn, for samplers that ask.

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
  given = ("key", "model", "prior", "shape", "known", "canvas")
  plugins.check(draw, options, "config.sampler", given)
  if canvas and "canvas" in inspect.signature(draw).parameters:
    options["canvas"] = tuple(canvas)
  return functools.partial(draw, **options)


def init_tokenizer(tokenizer: Any, key: Key) -> Params:
  """Fresh weights; they do not depend on the image size."""
  side = tokenizer.factor
  blank = jnp.zeros((1, side, side, tokenizer.image_channels))
  return tokenizer.init(key, blank)["params"]


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


def decode_tiled(
  tokenizer: Any,
  params: Params,
  ids: Array,
  grid: tuple[int, int],
  *,
  tile: Sequence[int] = (),
  overlap: int | None = None,
) -> Array:
  """`decode` of a large grid, with the memory of one tile at a time.

  Where two tiles overlap, the outer quarter of the overlap is dropped on either
  side, and between them one fades into the other. Only what reaches farther
  than that quarter differs from `decode`: attention, and the statistics of
  norms, which are those of a tile.

  Args:
    tokenizer: a module with decode, factor and grid.
    params: its weights.
    ids: 0..K-1 [b n].
    grid: (H, W) with H * W = n.
    tile: (h, w) in tokens; empty is twice the training grid. A grid within one
      tile is decoded as it is.
    overlap: tokens that neighbours share; None is a quarter of the shorter side
      of a tile.

  Returns:
    Images [b h w c] in [0, 1].

  Raises:
    ValueError: a tile that is none, or an overlap as large as a tile.
  """
  tile = tuple(tile) or tuple(2 * side for side in tokenizer.grid)
  if len(tile) != 2 or min(tile) < 1:
    raise ValueError(f"A tile is two numbers of tokens, not {tile}.")
  tile = tuple(min(sides) for sides in zip(tile, grid, strict=True))
  if tile == tuple(grid):
    return decode(tokenizer, params, ids, grid)
  overlap = min(tile) // 4 if overlap is None else overlap
  if not 0 <= overlap < min(tile):
    raise ValueError(f"Tiles of {tile} tokens cannot overlap by {overlap}.")
  factor, b = tokenizer.factor, len(ids)
  (rows, down), (columns, across) = (
    tiling.fades(*sides, overlap, factor)
    for sides in zip(grid, tile, strict=True)
  )
  ids = ids.reshape(b, *grid)

  def add(total: Array, one: tuple[Array, ...]):
    row, column, weight_row, weight_column = one
    part = jax.lax.dynamic_slice(ids, (0, row, column), (b, *tile))
    image = decode(tokenizer, params, part.reshape(b, -1), tile)
    image *= weight_row[:, None, None] * weight_column[:, None]
    at = (0, row * factor, column * factor, 0)
    old = jax.lax.dynamic_slice(total, at, image.shape)
    return jax.lax.dynamic_update_slice(total, old + image, at), None

  i, j = np.indices((len(rows), len(columns))).reshape(2, -1)
  blank = (b, *(side * factor for side in grid), tokenizer.image_channels)
  tiles = (rows[i], columns[j], down[i], across[j])
  return jax.lax.scan(add, jnp.zeros(blank), tiles)[0]


def adapt(
  system: System,
  params: Params,
  request: Mapping[str, Array],
  *,
  guidance: float | Array = 0.0,
  guidance_interval: tuple[float, float] = (0.0, 1.0),
  guidance_ramp: str = "constant",
  top_p: float = 1.0,
  top_k: int | None = None,
  temperature: float = 1.0,
  canvas: Sequence[int] = (),
  stride: int | Sequence[int] | None = None,
  windows: int = 16,
  jitter: bool = False,
  key: Key | None = None,
) -> Model:
  """The model that is sampled: guided, widened, truncated, then tempered.

  A guidance of exactly 0.0 costs nothing: one network call of the batch. An
  empty canvas is the training grid; `stride`, `windows` in a call and, with
  jitter, the key are those of `models.widen`.

  Raises:
    ValueError: guidance without a condition, or a canvas that cannot be.
  """
  net = system.net
  if isinstance(guidance, (int, float)) and not guidance:
    model = conditional_model(system, params, request)
  elif not (net.labels or system.text):
    raise ValueError(
      "config.sample.guidance needs a conditional net: set config.net.labels or"
      " config.text."
    )
  else:
    pair = jax.tree.map(lambda x: jnp.concatenate([x, x]), dict(request))
    b = jax.tree.leaves(pair)[0].shape[0] // 2
    model = models.guide(
      conditional_model(system, params, pair, drop=jnp.arange(2 * b) >= b),
      guidance,
      interval=guidance_interval,
      ramp=guidance_ramp,
    )
  if canvas:
    if model.cached:
      raise ValueError(
        "A causal net reads from the first token on and has no windows over a"
        " larger canvas; leave config.sample.canvas out."
      )
    model = models.widen(
      model,
      canvas=tuple(canvas),
      window=tuple(net.grid),
      stride=stride,
      chunk=windows,
      key=key if jitter else None,
    )
  model = models.truncate(model, top_p=top_p, top_k=top_k)
  return models.temper(model, temperature)


def generate(
  key: Key,
  indices: Array,
  requests: Mapping[str, Array],
  *,
  system: System,
  params: Params,
  prior: Any,
  draw: Draw,
  guidance: float | Array = 0.0,
  canvas: Sequence[int] = (),
  known: Array | None = None,
  judge: Callable[..., Any] | None = None,
  **transforms: Any,
) -> Array:
  """Draws image `indices[i]` of the run that `key` stands for.

  Each image has a key of its own, so that it depends on (key, index) alone:
  not on its batch, nor on the mesh.

  Args:
    key: of the whole run.
    indices: numbers of the images [b].
    requests: what they show; arrays with leading axis b, or no arrays at all.
    system: net and text encoder.
    params: their weights.
    prior: whose chain is run.
    draw: from `build_sampler`.
    guidance: one scale, or one for each image [b].
    canvas: (H, W) in tokens, n = H * W; empty is the training grid.
    known: ids [n] that all images share, with K where they are free.
    judge: request -> the critic of a sampler that asks one.
    **transforms: of `adapt`.

  Returns:
    What `draw` returns, with the batch axis of its single images replaced by b.
  """
  n = int(np.prod(canvas or system.net.grid))
  transforms |= {"canvas": canvas, "key": key}
  each = guidance if jnp.ndim(guidance) else None

  def one(
    index: Array, request: Mapping[str, Array], scale: Array | None
  ) -> Array:
    request = jax.tree.map(lambda x: x[None], request)
    scale = guidance if scale is None else scale
    model = adapt(system, params, request, guidance=scale, **transforms)
    own = jax.random.fold_in(key, index)
    critic = {"critic": judge(request)} if judge else {}
    return draw(own, model, prior, (1, n), known=known, **critic)

  ids = jax.vmap(one)(indices, dict(requests), each)  # [b .. 1 n]
  return jnp.squeeze(ids, -2)
