"""Model -> Model: everything that changes what a network says. They compose.

Order used by `pipeline.py`: guidance, windows over a larger canvas, truncation,
temperature. The last two follow guidance in arXiv:2205.16007, and the windows
in the released code of arXiv:2111.12701.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.ops import tiling
from vq_jax.types import NEVER, Array, Cached, Key, Model


def change(
  model: Model, say: Callable[[Array, Array], Array], copies: int = 1
) -> Model:
  """Puts `say` behind all that a model says, with a cache or without.

  Args:
    model: over a batch of copies * b.
    say: (log p [copies * b .. K], t [b]) -> log p [b .. K].
    copies: how often the model sees every image of the batch.

  Returns:
    A model over a batch of b.
  """

  def many(x: Array) -> Array:
    return jnp.concatenate([x] * copies)

  def denoise(z: Array, t: Array) -> Array:
    return say(model.denoise(many(z), many(t)), t)

  def start(b: int):
    return model.cached.start(copies * b)

  def step(cache, token: Array, i: Array, t: Array):
    log_probs, cache = model.cached.step(cache, many(token), i, many(t))
    return say(log_probs, t), cache

  cached = model.cached and Cached(start, step)
  return model._replace(denoise=denoise, cached=cached)


def temper(model: Model, temperature: float) -> Model:
  """p^(1 / temperature), renormalised; 1 changes nothing.

  Raises:
    ValueError: temperature <= 0.
  """
  if temperature <= 0:
    raise ValueError(f"temperature must be positive, not {temperature}.")
  if temperature == 1:
    return model

  return change(model, lambda log_p, t: jax.nn.log_softmax(log_p / temperature))


def truncate(
  model: Model, *, top_p: float = 1.0, top_k: int | None = None
) -> Model:
  """Draws only among the most probable tokens; ties with the last one stay.

  The others lose their mass and the rest is not scaled up, so that the largest
  probability of a position, its purity, is what it was (arXiv:2205.16007, as
  released). Posteriors and draws do not depend on the sum.

  Args:
    model: any model.
    top_p: nucleus (arXiv:1904.09751): the smallest set with at least this mass.
    top_k: at most this many tokens.

  Raises:
    ValueError: top_p outside (0, 1] or top_k < 1.
  """
  if not 0 < top_p <= 1:
    raise ValueError(f"top_p must be in (0, 1], not {top_p}.")
  if top_k is not None and top_k < 1:
    raise ValueError(f"top_k must be at least 1, not {top_k}.")
  # 1.0 must be exact: a float32 cumulative sum would drop the tail.
  if top_p == 1 and top_k is None:
    return model
  return change(model, lambda log_p, t: _keep_likely(log_p, top_p, top_k))


def _keep_likely(log_probs: Array, top_p: float, top_k: int | None) -> Array:
  probs = jnp.exp(log_probs)
  ranked = jnp.sort(probs, -1, descending=True)
  kept = jnp.ones_like(ranked, bool)
  if top_p < 1:
    kept &= jnp.cumsum(ranked, -1) - ranked < top_p  # Mass before the token.
  if top_k is not None:
    kept &= jnp.arange(ranked.shape[-1]) < top_k
  smallest = jnp.min(jnp.where(kept, ranked, 2.0), -1, keepdims=True)
  return jnp.where(probs >= smallest, log_probs, NEVER)


# How guidance grows from t = 1 to t = 0; all end at the full scale.
RAMPS = {
  "constant": jnp.ones_like,
  "linear": lambda t: 1.0 - t,
  "cosine": lambda t: 0.5 * (1.0 + jnp.cos(jnp.pi * t)),
}


def guide(
  pair: Model,
  scale: float | Array,
  *,
  interval: tuple[float, float] = (0.0, 1.0),
  ramp: str = "constant",
) -> Model:
  """Classifier-free guidance (arXiv:2205.16007, eq. 6 and 8) in one call.

  log p = log p(x | null) + (scale + 1) (log p(x | cond) - log p(x | null)).

  Args:
    pair: a model over a batch of 2b whose first half is conditional and whose
      second half is unconditional.
    scale: the paper's s, scalar; 0 is the conditional model. The released code
      calls s + 1 its guidance scale.
    interval: times (from, to) between which there is guidance at all
      (arXiv:2404.07724).
    ramp: a name in RAMPS, how the scale depends on time.

  Returns:
    A model over a batch of b.

  Raises:
    ValueError: an unknown ramp, or an interval that is none.
  """
  if ramp not in RAMPS:
    raise ValueError(plugins.unknown(ramp, RAMPS, "There is no guidance_ramp"))
  low, high = interval
  if not 0 <= low < high <= 1:
    raise ValueError(
      f"guidance_interval is two times 0 <= from < to <= 1, not {interval}."
    )

  def mix(twice: Array, t: Array) -> Array:
    given, free = jnp.split(twice, 2)
    active = (low <= t) & (t <= high)
    s = scale * jnp.where(active, RAMPS[ramp](t), 0.0)
    s = s.reshape(-1, *[1] * (given.ndim - 1))
    return jax.nn.log_softmax(free + (s + 1.0) * (given - free))

  return change(pair, mix, copies=2)


def widen(
  model: Model,
  *,
  canvas: tuple[int, int],
  window: tuple[int, int],
  stride: int | tuple[int, int] | None = None,
  chunk: int = 16,
  key: Key | None = None,
) -> Model:
  """A model of a larger canvas out of one of windows (arXiv:2111.12701, eq. 8).

  p(x | z) of a position is the mean of what the windows that contain it say.
  Each is shown to the model as if there were no more, at the time of the whole
  canvas. The model keeps its batch, condition and guidance: windows are one
  more axis around it.

  Args:
    model: of grids of `window`; z are ids [b n] or embeddings [b n d].
    canvas: (H, W) in tokens; n of the result is H * W, in raster order.
    window: (h, w), the training grid.
    stride: tokens from one window to the next, down and across, or one number
      for both; the last windows end where the canvas ends. 1 is the sum over
      all subsets of the paper; None is a quarter of the window.
    chunk: windows in one network call, at most. Only the mixture of all windows
      is stored.
    key: shifts the windows by less than a stride, anew at each time (of the
      first image), for the random positions of the paper: no seam stays where
      it is, and every position is covered. None leaves the windows in place.

  Returns:
    A model of the canvas; the same model if the canvas is one window.

  Raises:
    ValueError: the canvas is smaller than the window, a stride leaves gaps, or
      chunk < 1.
  """
  canvas, window = tuple(canvas), tuple(window)
  if stride is None:
    stride = tuple(-(-side // 4) for side in window)
  strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
  _check_windows(canvas, window, strides, chunk)
  if canvas == window:
    return model

  def denoise(z: Array, t: Array) -> Array:
    shifts = (None, None) if key is None else _shifts(key, t, strides)
    sizes = zip(canvas, window, strides, shifts, strict=True)
    rows, columns = (tiling.axis(*size) for size in sizes)
    pairs = jnp.meshgrid(rows.start, columns.start, indexing="ij")
    corners = jnp.stack(pairs, -1).reshape(-1, 2)
    real = (rows.real[:, None] & columns.real).reshape(-1)
    z = z.reshape(z.shape[0], *canvas, *z.shape[2:])
    total = _log_sum(model, z, t, window, tiling.chunks(corners, real, chunk))
    count = rows.cover[:, None] * columns.cover  # [H W]
    total -= jnp.log(count)[..., None]
    return total.reshape(z.shape[0], -1, total.shape[-1])

  return model._replace(denoise=denoise, cached=None)


def _check_windows(
  canvas: tuple, window: tuple, strides: tuple, chunk: int
) -> None:
  if len(canvas) != 2 or any(
    a < b for a, b in zip(canvas, window, strict=True)
  ):
    raise ValueError(
      f"A canvas is two numbers of tokens, at least the {window[0]} x"
      f" {window[1]} that the net was trained on, not {canvas}."
    )
  if len(strides) != 2 or not all(
    1 <= s <= side for s, side in zip(strides, window, strict=True)
  ):
    raise ValueError(
      f"The stride of windows over a canvas is from 1 to the {window[0]} x"
      f" {window[1]} tokens of a window, not {strides}."
    )
  if chunk < 1:
    raise ValueError(f"A call takes at least 1 window, not {chunk}.")


def _shifts(key: Key, t: Array, strides: tuple[int, int]) -> Array:
  """Numbers [2], each uniform below its stride: a function of key and time."""
  bits = jax.lax.bitcast_convert_type(t[0].astype(jnp.float32), jnp.uint32)
  key = jax.random.fold_in(key, bits)
  return jax.random.randint(key, (2,), 0, jnp.array(strides))


def _log_sum(
  model: Model,
  z: Array,
  t: Array,
  window: tuple[int, int],
  chunks: tuple[Array, Array],
) -> Array:
  """log of the windows' summed p(x | z), z [b H W ..] -> [b H W K].

  chunks: first row and column of each window [calls k 2], and whether it
  counts [calls k].
  """

  def look(corner: Array) -> Array:
    size = (z.shape[0], *window, *z.shape[3:])
    at = (0, corner[0], corner[1], *[0] * (z.ndim - 3))
    seen = jax.lax.dynamic_slice(z, at, size)
    return seen.reshape(size[0], -1, *z.shape[3:])

  def add(total: Array, one: tuple[Array, Array, Array]):
    corner, real, log_probs = one
    at = (0, corner[0], corner[1], 0)
    new = log_probs.reshape(z.shape[0], *window, -1)
    old = jax.lax.dynamic_slice(total, at, new.shape)
    new = jnp.where(real, jnp.logaddexp(old, new), old)
    return jax.lax.dynamic_update_slice(total, new, at), None

  def call(total: Array, some: tuple[Array, Array]):
    corners, real = some
    views = jax.vmap(look)(corners)
    log_probs = jax.vmap(model.denoise, (0, None))(views, t)
    return jax.lax.scan(add, total, (corners, real, log_probs))[0], None

  said = jax.eval_shape(model.denoise, look(chunks[0][0, 0]), t)
  total = jnp.full((*z.shape[:3], said.shape[-1]), NEVER)
  return jax.lax.scan(call, total, chunks)[0]
