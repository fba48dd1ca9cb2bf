"""VQGAN: a convolutional autoencoder with a codebook in the middle.

Esser et al. 2021, arXiv:2012.09841, as in the released models. Some fields
give the variants of arXiv:2111.12701 and arXiv:2202.04200: see `Tokenizer`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict

from vq_jax import plugins
from vq_jax.tokenizer import _ema, _gumbel, fsq, lfq, quantize
from vq_jax.tokenizer._autoencoder import WIRINGS, Decoder, Encoder, Half
from vq_jax.types import Array

# (vocab_size, code_dim, **options) -> a module with the contract of
# `quantize.Nearest`.
QUANTIZERS: dict[str, Callable[..., nn.Module]] = {
  "nearest": quantize.Nearest,
  "gumbel": _gumbel.Gumbel,
  "gumbel_soft": functools.partial(_gumbel.Gumbel, hard=False),
  "ema": _ema.Ema,
  "fsq": fsq.FSQ,
  "lfq": lfq.LFQ,
}
# Those that look for the nearest of codes that can be put anywhere: what
# `quantize.revive` and k-means are for.
NEAREST = ("nearest", "ema")


def make_quantizer(
  name: str, vocab_size: int, code_dim: int, options: Mapping[str, Any]
) -> nn.Module:
  """The quantizer called `name`, with its own options.

  Raises:
    ValueError: an unknown name or option.
  """
  if name not in QUANTIZERS:
    what = "There is no quantizer"
    raise ValueError(plugins.unknown(name, QUANTIZERS, what))
  where = "config.tokenizer.quantizer_options"
  return plugins.call(QUANTIZERS[name], options, where, vocab_size, code_dim)


class Codes(NamedTuple):
  """What is between encoder and decoder.

  Attributes:
    latents: encoder outputs [b h' w' d], float32.
    quantized: their codes, *before* `straight_through` [b h' w' d], float32.
    ids: indices of the codes [b n], int32, raster order; as `encode` has them.
    loss: see `quantize.Quantized`.
    log_sigma: see `Tokenizer.gaussian`; None without `logsigma`.
  """

  latents: Array
  quantized: Array
  ids: Array
  loss: Array | None = None
  log_sigma: Array | None = None


class Tokenizer(nn.Module):
  """Images in [-1, 1] <-> ids. The defaults are the f16 model with K = 1024.

  The network is fully convolutional: `image_size` only says which levels
  attend and which grid `decode` assumes. Images of another size, square or
  not, need sides that `factor` divides. Parameters do not depend on the size,
  so `init` is cheapest with one image of `factor` pixels a side.

  The models of arXiv:2111.12701 have projections=False, final_swish=False,
  decoder_extra=0, unit_range=True; those of arXiv:2202.04200 projections=False,
  decoder_extra=0, unit_range=True, wiring="maskgit", attention=().

  Attributes:
    image_size: training resolution, in pixels a side.
    image_channels: 3 for RGB.
    channels: width of the finest level.
    multipliers: width of each level over `channels`, the finest first.
    blocks: residual blocks per encoder level.
    attention: sides, in pixels, of the levels that attend.
    latent_dim: channels of the encoder's output and the decoder's input.
    vocab_size: the number of codes in the codebook. It is K, what a prior has
      to know, unless `kept_codes` says otherwise: see `prior_vocab_size`.
    code_dim: d, the length of a code.
    groups: groups of every GroupNorm; they must divide every width.
    dropout: rate inside the residual blocks, in training.
    projections: linear maps between latent_dim and code_dim, on either side of
      the codebook; without them the two must be equal.
    final_swish: a swish before the last convolution of encoder and decoder.
    decoder_extra: residual blocks a decoder level has more than an encoder's.
    unit_range: the network works on [0, 1]; in and out stay [-1, 1].
    wiring: a name in `_autoencoder.WIRINGS`.
    quantizer: "nearest"; "ema", whose codebook follows the latents without a
      gradient; "fsq" or "lfq", which have no codebook; "gumbel" or
      "gumbel_soft", which see one code or a mixture of codes in training. The
      last two need an rng named "gumbel" in training and draw codes wherever
      they get one: see `_gumbel.Gumbel`.
    quantizer_options: arguments of its class, such as levels for "fsq", or the
      weights of its loss.
    kept_codes: ids in a reduced vocabulary, for a trained tokenizer that is not
      trained on; 0 keeps all. `encode` and `decode` then speak small ids; codes
      that are not kept become id 0. The tables are the parameters `remap`.
    logsigma: the decoder also says how sure it is of every pixel: a head for
      likelihoods, which is trained by itself (`train.likelihood`).
    dtype: what is computed in. Parameters, latents, outputs are float32.
  """

  image_size: int = 256
  image_channels: int = 3
  channels: int = 128
  multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
  blocks: int = 2
  attention: tuple[int, ...] = (16,)
  latent_dim: int = 256
  vocab_size: int = 1024
  code_dim: int = 256
  groups: int = 32
  dropout: float = 0.0
  projections: bool = True
  final_swish: bool = True
  decoder_extra: int = 1
  unit_range: bool = False
  wiring: str = "vqgan"
  quantizer: str = "nearest"
  quantizer_options: Mapping[str, Any] = FrozenDict()
  kept_codes: int = 0
  logsigma: bool = False
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Builds both halves, the quantizer between them, and the projections."""
    if not self.projections and self.latent_dim != self.code_dim:
      raise ValueError(
        f"Without projections latent_dim = {self.latent_dim} must equal"
        f" code_dim = {self.code_dim}."
      )
    if self.wiring not in WIRINGS:
      what = "There is no wiring"
      raise ValueError(plugins.unknown(self.wiring, WIRINGS, what))
    if not 0 <= self.kept_codes <= self.vocab_size:
      raise ValueError(f"kept_codes is not in 0..{self.vocab_size}.")
    self.encoder = self._half(Encoder, self.blocks, self.latent_dim)
    blocks = self.blocks + self.decoder_extra
    self.decoder = self._half(
      Decoder, blocks, self.image_channels, logsigma=self.logsigma
    )
    self.quantize = make_quantizer(
      self.quantizer,
      self.vocab_size,
      self.code_dim,
      self.quantizer_options,
    )
    if self.kept_codes:
      self.remap = quantize.Remap(self.vocab_size, self.kept_codes)
    if self.projections:
      # float32: these are small, and ids hang on the last digits.
      self.quant_conv = nn.Dense(self.code_dim)
      self.post_quant_conv = nn.Dense(self.latent_dim)

  def _half(
    self, kind: type[Half], blocks: int, features: int, **fields: bool
  ) -> Half:
    """An Encoder or Decoder of this tokenizer's sizes."""
    levels = range(len(self.multipliers))
    return kind(
      widths=tuple(self.channels * m for m in self.multipliers),
      attention=tuple(self.image_size >> i in self.attention for i in levels),
      blocks=blocks,
      features=features,
      final_swish=self.final_swish,
      groups=self.groups,
      dropout=self.dropout,
      dtype=self.dtype,
      wiring=WIRINGS[self.wiring],
      **fields,
    )

  @property
  def factor(self) -> int:
    """Pixels a side per code."""
    return 2 ** (len(self.multipliers) - 1)

  @property
  def prior_vocab_size(self) -> int:
    """K: the ids of `encode` and `decode` are 0..K-1."""
    return self.kept_codes or self.vocab_size

  @property
  def grid(self) -> tuple[int, int]:
    """Codes (h', w') of an image of `image_size`."""
    side = self.image_size // self.factor
    return side, side

  def __call__(
    self,
    images: Array,
    *,
    train: bool = False,
    temperature: Array | float = 1.0,
  ) -> tuple[Array, Codes]:
    """Images [b h w c] in [-1, 1] -> their reconstructions, unclipped, Codes.

    With train=True, `apply` needs an rng named "dropout" if there is dropout,
    and one named "gumbel" if the quantizer draws, at a temperature > 0.
    """
    latents = self._latents(images, train)
    through, quantized, ids, loss = self.quantize(
      latents, train=train, temperature=temperature
    )
    if self.kept_codes:
      ids = self.remap.shrink(ids)
      through = quantized = self._codes(ids)
    ids = einops.rearrange(ids, "b h w -> b (h w)")
    outputs, log_sigma = self._paint(through, train)
    return outputs, Codes(latents, quantized, ids, loss, log_sigma)

  def encode(self, images: Array) -> Array:
    """Images [b h w c] in [-1, 1] -> ids [b n], int32, raster order.

    Raises:
      ValueError: `factor` does not divide the sides of the images.
    """
    ids = self.quantize(self._latents(images, False)).ids
    ids = self.remap.shrink(ids) if self.kept_codes else ids
    return einops.rearrange(ids, "b h w -> b (h w)")

  def decode(self, ids: Array, grid: tuple[int, int] | None = None) -> Array:
    """Ids [b n] -> images [b h w c], about [-1, 1], unclipped, float32.

    Args:
      ids: 0..K-1 in raster order; `quantize.check_ids` checks them.
      grid: (h', w') with h' w' = n; None is that of the training resolution.

    Raises:
      ValueError: the grid does not have n positions.
    """
    return self._paint(self._fill(ids, grid), False)[0]

  def gaussian(
    self, ids: Array, grid: tuple[int, int] | None = None
  ) -> tuple[Array, Array]:
    """p(pixels | ids): independent normal densities, for a `logsigma` model.

    Args:
      ids: see `decode`.
      grid: see `decode`.

    Returns:
      The mean, which is what `decode` says, [b h w c] about [-1, 1]; log sigma
      [b h w c] of pixels in [0, 1]. float32.
    """
    return self._paint(self._fill(ids, grid), False)

  def decode_latents(self, quantized: Array, *, train: bool = False) -> Array:
    """Codes [b h' w' d] -> images [b h w c], unclipped, float32."""
    return self._paint(quantized, train)[0]

  def _paint(self, quantized: Array, train: bool) -> tuple[Array, Array | None]:
    """Codes [b h' w' d] -> images and log sigma [b h w c], float32."""
    if self.projections:
      quantized = self.post_quant_conv(quantized)
    outputs, log_sigma = self.decoder(quantized, train)
    outputs = outputs.astype(jnp.float32)
    return 2.0 * outputs - 1.0 if self.unit_range else outputs, log_sigma

  def _fill(self, ids: Array, grid: tuple[int, int] | None) -> Array:
    """Ids [b n] -> codes [b h' w' d]."""
    h, w = self.grid if grid is None else grid
    if h * w != ids.shape[1]:
      raise ValueError(f"{ids.shape[1]} ids do not fill a grid of {h} x {w}.")
    codes = self._codes(ids)
    return einops.rearrange(codes, "b (h w) d -> b h w d", h=h, w=w)

  def _codes(self, ids: Array) -> Array:
    """Ids [..], small ones where the vocabulary is reduced -> codes [.. d]."""
    return self.quantize.lookup(
      self.remap.widen(ids) if self.kept_codes else ids
    )

  def _latents(self, images: Array, train: bool) -> Array:
    """Images [b h w c] -> latents [b h' w' d], float32."""
    h, w = images.shape[1:3]
    if h % self.factor or w % self.factor:
      raise ValueError(
        f"Images of {h} x {w} pixels: both sides must be multiples of"
        f" {self.factor}."
      )
    images = (images + 1.0) / 2.0 if self.unit_range else images
    latents = self.encoder(images, train).astype(jnp.float32)
    return self.quant_conv(latents) if self.projections else latents
