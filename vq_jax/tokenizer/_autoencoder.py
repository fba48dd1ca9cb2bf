"""The two halves of VQGAN: images -> latents and back, fully convolutional.

Esser et al. 2021, arXiv:2012.09841, as in the released models; the submodules
have the names their checkpoints use.
"""

import functools
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vq_jax.ops.sharding import pin_batch
from vq_jax.types import Array


class Wiring(NamedTuple):
  """Where published networks differ; the defaults are those of the first.

  Attributes:
    attention: the bottleneck attends.
    bias: residual blocks and the encoder's first convolution have biases.
    pool: means of 2x2 pixels halve the size, not convolutions.
    late: where the width changes, the shortcut reads what it is added to.
    point: the encoder's last convolution sees one pixel, not 3x3.
  """

  attention: bool = True
  bias: bool = True
  pool: bool = False
  late: bool = False
  point: bool = False


WIRINGS = {
  "vqgan": Wiring(),
  # arXiv:2202.04200, as released.
  "maskgit": Wiring(
    attention=False, bias=False, pool=True, late=True, point=True
  ),
}


def _norm(x: Array, groups: int, dtype: Any, name: str) -> Array:
  """GroupNorm inside the calling module."""
  width = x.shape[-1]
  if width % groups:
    raise ValueError(
      f"GroupNorm needs a width that its groups divide: {width} channels,"
      f" {groups} groups. Change `channels`, `multipliers` or `groups`."
    )
  # E[x^2] - E[x]^2 cancels in float32 where |mean| is far above the deviation.
  norm = nn.GroupNorm(
    groups, epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name
  )
  return norm(x)


def _conv(features: int, dtype: Any, name: str, **kwargs: Any) -> nn.Conv:
  """A 3x3 convolution that keeps the size, unless told otherwise."""
  kwargs = {"padding": ((1, 1), (1, 1)), **kwargs}
  return nn.Conv(features, (3, 3), dtype=dtype, name=name, **kwargs)


class ResnetBlock(nn.Module):
  """Two (norm, swish, conv) around a shortcut: [b h w c] -> [b h w width]."""

  width: int
  groups: int
  dropout: float
  dtype: Any
  wiring: Wiring = WIRINGS["vqgan"]

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """The shortcut is projected only if the width changes."""
    bias = self.wiring.bias
    h = nn.swish(_norm(x, self.groups, self.dtype, "norm1"))
    h = _conv(self.width, self.dtype, "conv1", use_bias=bias)(h)
    h = nn.swish(_norm(h, self.groups, self.dtype, "norm2"))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = _conv(self.width, self.dtype, "conv2", use_bias=bias)(h)
    if x.shape[-1] != self.width:
      x = h if self.wiring.late else x
      project = nn.Dense(self.width, bias, self.dtype, name="nin_shortcut")
      x = project(x)
    return x + h


class AttnBlock(nn.Module):
  """Single-head attention over all positions: [b h w c] -> [b h w c]."""

  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Plain matmuls: the head is as wide as the map, too wide for kernels."""
    width = x.shape[-1]
    dense = functools.partial(nn.Dense, width, dtype=self.dtype)
    h = _norm(x, self.groups, self.dtype, "norm")
    h = einops.rearrange(h, "b h w c -> b (h w) c")
    q, k, v = (dense(name=name)(h) for name in ("q", "k", "v"))
    scores = jnp.einsum("bnc,bmc->bnm", q, k) * width**-0.5
    weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(v.dtype)
    h = jnp.einsum("bnm,bmc->bnc", weights, v)
    return x + dense(name="proj_out")(h).reshape(x.shape)


class Downsample(nn.Module):
  """A strided 3x3 convolution: [b h w c] -> [b h/2 w/2 c]."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Pads right and bottom only, whatever the size."""
    one_side = ((0, 1), (0, 1))
    conv = _conv(x.shape[-1], self.dtype, "conv", strides=2, padding=one_side)
    return conv(x)


class Pool(nn.Module):
  """Means of 2x2 pixels: [b h w c] -> [b h/2 w/2 c]."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """There is nothing to learn."""
    return einops.reduce(x, "b (h i) (w j) c -> b h w c", "mean", i=2, j=2)


class Upsample(nn.Module):
  """Pixels doubled, then a 3x3 convolution: [b h w c] -> [b 2h 2w c]."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Nearest neighbours, then the convolution."""
    x = einops.repeat(x, "b h w c -> b (h i) (w j) c", i=2, j=2)
    return _conv(x.shape[-1], self.dtype, "conv")(x)


class Stage(nn.Module):
  """Everything at one resolution, then the step to the next."""

  width: int
  blocks: int
  attention: bool
  resample: type[nn.Module] | None
  groups: int
  dropout: float
  dtype: Any
  wiring: Wiring

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[b h w c] -> [b h' w' width]."""
    shared = (self.groups, self.dropout, self.dtype, self.wiring)
    block = functools.partial(ResnetBlock, self.width, *shared)
    for i in range(self.blocks):
      x = block(name=f"block_{i}")(x, train)
      if self.attention:
        x = AttnBlock(self.groups, self.dtype, name=f"attn_{i}")(x)
      x = pin_batch(x)
    if self.resample is not None:
      x = self.resample(self.dtype, name=self.resample.__name__.lower())(x)
    return x


class Mid(nn.Module):
  """The bottleneck: [b h w c] -> [b h w c]."""

  groups: int
  dropout: float
  dtype: Any
  wiring: Wiring

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Residual block, attention if the wiring has it, residual block."""
    shared = (self.groups, self.dropout, self.dtype, self.wiring)
    block = functools.partial(ResnetBlock, x.shape[-1], *shared)
    x = block(name="block_1")(x, train)
    if self.wiring.attention:
      x = AttnBlock(self.groups, self.dtype, name="attn_1")(x)
    return block(name="block_2")(x, train)


class Half(nn.Module):
  """What encoder and decoder share.

  Attributes:
    widths: channels of each level, the finest first.
    attention: whether each level attends.
    blocks: residual blocks of each level.
    features: channels of the output.
    final_swish: a swish before the last convolution.
    groups: groups of every GroupNorm.
    dropout: dropout rate inside the residual blocks.
    dtype: what is computed in; parameters are float32.
    wiring: which published network it is.
  """

  widths: tuple[int, ...]
  attention: tuple[bool, ...]
  blocks: int
  features: int
  final_swish: bool
  groups: int
  dropout: float
  dtype: Any
  wiring: Wiring = WIRINGS["vqgan"]

  def stage(self, i: int, resample: type[nn.Module] | None, name: str) -> Stage:
    """Level i, 0 being the finest."""
    shared = (self.groups, self.dropout, self.dtype, self.wiring)
    return Stage(
      self.widths[i],
      self.blocks,
      self.attention[i],
      resample,
      *shared,
      name=f"{name}_{i}",
    )

  def mid(self) -> Mid:
    """The bottleneck."""
    shared = (self.groups, self.dropout, self.dtype, self.wiring)
    return Mid(*shared, name="mid")

  def tail(self, x: Array) -> Array:
    """What the last convolution reads: [b h w c] -> [b h w c]."""
    x = _norm(x, self.groups, self.dtype, "norm_out")
    return nn.swish(x) if self.final_swish else x


class Encoder(Half):
  """[b h w c] -> [b h' w' features], from the finest level to the coarsest."""

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """All levels but the last halve the size."""
    last, wiring = len(self.widths) - 1, self.wiring
    half = Pool if wiring.pool else Downsample
    conv_in = _conv(self.widths[0], self.dtype, "conv_in", use_bias=wiring.bias)
    x = conv_in(x)
    for i in range(last + 1):
      x = self.stage(i, half if i < last else None, "down")(x, train)
    x = self.tail(self.mid()(x, train))
    if wiring.point:
      return nn.Dense(self.features, dtype=self.dtype, name="conv_out")(x)
    return _conv(self.features, self.dtype, "conv_out")(x)


class LogSigma(nn.Module):
  """The logarithm of a standard deviation: [b h w c] -> [b h w features].

  The head of arXiv:2111.12701, section 4.1.1, as in the released code.
  """

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """x is taken as it is: no gradient goes back. float32."""
    x = jax.lax.stop_gradient(x)
    x = nn.relu(_conv(x.shape[-1], self.dtype, "hidden")(x))
    # At first about a tenth everywhere, for pixels in [0, 1]: a usual error.
    kwargs = {
      "kernel_init": nn.initializers.zeros,
      "bias_init": nn.initializers.constant(-2.0),
    }
    x = nn.Dense(self.features, dtype=self.dtype, name="out", **kwargs)(x)
    return x.astype(jnp.float32)


class Decoder(Half):
  """[b h' w' d] -> [b h w features], from the coarsest level to the finest.

  Attributes:
    logsigma: has a `LogSigma` beside the last convolution.
  """

  logsigma: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array | None]:
    """All levels but the finest double the size. Outputs, and log sigma."""
    x = _conv(self.widths[-1], self.dtype, "conv_in")(x)
    x = self.mid()(x, train)
    for i in reversed(range(len(self.widths))):
      x = self.stage(i, Upsample if i else None, "up")(x, train)
    x = self.tail(x)
    outputs = _conv(self.features, self.dtype, "conv_out")(x)
    if not self.logsigma:
      return outputs, None
    return outputs, LogSigma(self.features, self.dtype, name="logsigma")(x)
