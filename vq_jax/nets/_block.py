"""The parts of a transformer block: norms, attention, MLP, residual stream."""

import functools
import math
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vq_jax.ops.attention import attend, plain
from vq_jax.ops.sharding import pin_batch
from vq_jax.types import Array

ACTIVATIONS = {
  "exact": functools.partial(jax.nn.gelu, approximate=False),
  "tanh": functools.partial(jax.nn.gelu, approximate=True),
  "sigmoid": lambda x: x * jax.nn.sigmoid(1.702 * x),
}

NORMAL = nn.initializers.normal(0.02)
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): as loud at any width as N(0, 0.02), which
# arXiv:2111.14822 has, at width 1024, and what arXiv:2111.12701 released.
FAN_IN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Of tokens and positions: what a position holds must be heard beside what the
# first blocks say, or that visible tokens stay takes hundreds of updates.
EMBEDDING = nn.initializers.normal(0.5)


def flat_dot(
  lhs: Array, rhs: Array, dimension_numbers: Any, **options: Any
) -> Array:
  """`lax.dot_general` of [.. d] and [d e] as one product of two matrices.

  Over [b n d] the gradient of the kernel contracts two axes, for which XLA's
  CPU backend first copies both operands, transposed. On other backends it is
  the same product.
  """
  assert dimension_numbers == (((lhs.ndim - 1,), (0,)), ((), ()))
  flat = lhs.reshape(-1, lhs.shape[-1])
  out = jax.lax.dot_general(flat, rhs, (((1,), (0,)), ((), ())), **options)
  return out.reshape(*lhs.shape[:-1], rhs.shape[1])


Dense = functools.partial(nn.Dense, kernel_init=FAN_IN, dot_general=flat_dot)
LAYERS = {
  "fc": Dense,
  "conv": functools.partial(nn.Conv, kernel_size=(3, 3), kernel_init=FAN_IN),
}


def sinusoid(position: Array, width: int) -> Array:
  """[sin(f_i p), cos(f_i p)], f_i = 10^(-4 i / (width/2 - 1)).

  Args:
    position: real numbers, any shape [...].
    width: an even number of features, at least 4.

  Returns:
    [... width], float32 (arXiv:1706.03762, section 3.5, as arXiv:2111.14822
    lays it out: all sines first).
  """
  half = width // 2
  frequency = jnp.exp(-math.log(1e4) / (half - 1) * jnp.arange(half))
  angle = jnp.asarray(position, jnp.float32)[..., None] * frequency
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def layer_norm(epsilon: float = 1e-5, **kwargs: Any) -> nn.LayerNorm:
  """LayerNorm in float32, two-pass variance."""
  return nn.LayerNorm(
    epsilon, dtype=jnp.float32, use_fast_variance=False, **kwargs
  )


def with_mean(table: Array) -> Array:
  """Behind the rows of a table their mean: [r d] -> [r + 1 d]."""
  return jnp.concatenate([table, table.mean(0, keepdims=True)])


def once(module: nn.Module, name: str, compute: Callable[[], Array]) -> Array:
  """compute(), kept under `name` from the first step of a cache to the last.

  For what does not depend on the tokens: captions, classes. The collection
  "once" is written where it is mutable, and read where it is given.
  """
  writes = module.is_mutable_collection("once")
  if module.is_initializing() or not (
    writes or module.has_variable("once", name)
  ):
    return compute()
  return module.variable("once", name, compute).value


class AffineNorm(nn.Module):
  """LayerNorm with learnt scale and bias; the signal plays no part.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Array, signal: Array | None = None) -> Array:
    """[b n d] -> [b n d], float32."""
    del signal
    return layer_norm(self.epsilon, name="norm")(x)


class AdaptiveNorm(nn.Module):
  """AdaLN: LayerNorm whose scale and shift come from a signal.

  LN(x) * (1 + scale) + shift with [scale, shift] = Linear(SiLU(embedding)), the
  scale first (arXiv:2111.14822, eq. 10).

  Attributes:
    rows: rows of a learnt table that integer signals [b] index; None for
      signals that are embeddings [b d] already.
    mean_row: index `rows` means "unknown": the mean of the table.
    epsilon: added to the variance.
  """

  rows: int | None = None
  mean_row: bool = False
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Array, signal: Array) -> Array:
    """x [b n d], signal [b] or [b d] -> [b n d], float32."""
    width = x.shape[-1]

    def modulation() -> Array:
      embedding = signal
      if self.rows is not None:
        table = self.param("embedding", NORMAL, (self.rows, width))
        table = with_mean(table) if self.mean_row else table
        embedding = jnp.take(table, signal, axis=0)
      linear = Dense(2 * width, name="modulation")
      return linear(jax.nn.silu(embedding))[:, None]

    both = once(self, "scale_and_shift", modulation)
    scale, shift = jnp.split(both, 2, axis=-1)
    norm = layer_norm(self.epsilon, use_scale=False, use_bias=False)
    return norm(x) * (1 + scale) + shift


class Attention(nn.Module):
  """Multi-head attention of x over a context; every projection has a bias.

  Attributes:
    heads: a divisor of the width.
    causal: token i sees tokens 0..i only.
    tokens: n, the keys that are kept while a causal one goes token by token.
    dropout: rate on the weights.
    dtype: the compute type.
  """

  heads: int
  causal: bool = False
  tokens: int = 0
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, context: Array, train: bool, index: Array | None = None
  ) -> Array:
    """x [b n d], context [b m e] -> [b n d]; x is its own context in a self.

    Padding of the context is not masked: systems that pad captions train with
    the features of the padding. With an index, x [b 1 d] is the token there,
    and those before it are in the collection "past".
    """
    width = x.shape[-1]

    def heads(name: str, source: Array) -> Array:
      y = Dense(width, dtype=self.dtype, name=name)(source)
      return einops.rearrange(y, "b n (a d) -> b n a d", a=self.heads)

    q = heads("query", x)
    if index is not None:
      k = self._append("keys", heads("key", x), index)
      v = self._append("values", heads("value", x), index)
      y = plain(q, k, v, visible=jnp.arange(self.tokens)[None] <= index)
    else:
      k = once(self, "keys", lambda: heads("key", context))
      v = once(self, "values", lambda: heads("value", context))
      drop = None
      if train and self.dropout:
        drop = nn.Dropout(self.dropout, deterministic=False)
      y = attend(q, k, v, causal=self.causal, drop=drop)
    y = einops.rearrange(y, "b n a d -> b n (a d)")
    return Dense(width, dtype=self.dtype, name="out")(y)

  def _append(self, name: str, x: Array, index: Array) -> Array:
    """Puts x [b 1 a d] at an index among the past [b n a d]."""
    shape = (x.shape[0], self.tokens, *x.shape[2:])
    past = self.variable("past", name, jnp.zeros, shape, x.dtype)
    past.value = past.value.at[:, index].set(x[:, 0])
    return past.value


class Mlp(nn.Module):
  """Widen, activate, narrow: per token, or in 3x3 windows of the grid.

  Attributes:
    layer: a key of LAYERS.
    activation: a key of ACTIVATIONS.
    grid: (h, w), h * w = n.
    ratio: hidden features per feature.
    dtype: the compute type.
  """

  layer: str
  activation: str
  grid: tuple[int, int]
  ratio: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[b n d] -> [b n d]."""
    layer = functools.partial(LAYERS[self.layer], dtype=self.dtype)
    width = x.shape[-1]
    x = einops.rearrange(x, "b (h w) d -> b h w d", h=self.grid[0])
    x = layer(self.ratio * width, name="up")(x)
    x = layer(width, name="down")(ACTIVATIONS[self.activation](x))
    return einops.rearrange(x, "b h w d -> b (h w) d")


class Block(nn.Module):
  """Residual block: self-attention, cross-attention if text, MLP.

  Attributes:
    norm: makes the norm of either attention.
    mlp_norm: makes the norm of the MLP.
    attention: makes an Attention.
    mlp: makes the MLP.
    causal: self-attention looks back only.
    post_norm: a norm is of the sum that leaves, not of what a layer reads.
    dropout: rate on what joins the residual stream.
    train: dropout is active.
  """

  norm: Callable[..., nn.Module]
  mlp_norm: Callable[..., nn.Module]
  attention: Callable[..., nn.Module]
  mlp: Callable[..., nn.Module]
  causal: bool = False
  post_norm: bool = False
  dropout: float = 0.0
  train: bool = False

  @nn.compact
  def __call__(
    self,
    x: Array,
    signal: Array | None,
    label: Array | None,
    text: Array | None,
    index: Array | None,
  ) -> tuple[Array, None]:
    """x [b n d], signal and label [b] or [b d], text [b m e] -> [b n d], None.

    The second result is what a scan over blocks wants. With an index, x [b 1 d]
    is the one token there.
    """
    drop = nn.Dropout(self.dropout, deterministic=not self.train)

    def join(x: Array, norm: nn.Module, signal: Array | None, layer) -> Array:
      y = x if self.post_norm else norm(x, signal)
      x += drop(layer(y)).astype(x.dtype)
      return norm(x, signal).astype(x.dtype) if self.post_norm else x

    x = pin_batch(x)
    attention = self.attention(causal=self.causal, name="attention")
    look = lambda y: attention(y, y, self.train, index)  # noqa: E731
    x = join(x, self.norm(name="attention_norm"), signal, look)
    if text is not None:
      cross = self.attention(name="cross_attention")
      read = lambda y: cross(y, text, self.train)  # noqa: E731
      x = join(x, self.norm(name="cross_norm"), signal, read)
    mlp_norm = self.mlp_norm(name="mlp_norm")
    x = join(x, mlp_norm, label, self.mlp(name="mlp"))
    return pin_batch(x), None
