"""The two ends of a net: what tokens and classes become, and the logits."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from vq_jax.nets import _block
from vq_jax.types import Array


def embedding_init(net: nn.Module) -> Callable[..., Array]:
  """Of tokens and what is added to them.

  Quiet where the logits are products with the same table: training starts from
  the uniform distribution.
  """
  return _block.NORMAL if net.tied_head else _block.EMBEDDING


def label_token(net: nn.Module, label: Array) -> Array:
  """A token that says the class, called inside the net: [b] -> [b 1 d]."""
  shape = (net.labels + net.null_label, net.width)
  table = net.param("labels", embedding_init(net), shape)
  table = table if net.null_label else _block.with_mean(table)
  return jnp.take(table, label, axis=0)[:, None]


class TiedHead(nn.Module):
  """BERT's head (arXiv:1810.04805): similarity to the embedding of each token.

  Attributes:
    vocab_size: K.
    activation: a key of `_block.ACTIVATIONS`.
    epsilon: of its norm.
  """

  vocab_size: int
  activation: str
  epsilon: float

  @nn.compact
  def __call__(self, x: Array, tokens: nn.Embed) -> Array:
    """x [b n d] and a table of at least K rows -> logits [b n K], float32."""
    x = _block.Dense(x.shape[-1], kernel_init=_block.NORMAL, name="dense")(x)
    x = _block.ACTIVATIONS[self.activation](x)
    x = _block.layer_norm(self.epsilon, name="norm")(x)
    bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
    return tokens.attend(x)[..., : self.vocab_size] + bias


def _learnt(net: nn.Module) -> Array:
  """A vector per token, and one in front for a class that is a token."""
  shape = (math.prod(net.grid) + net.label_token, net.width)
  return net.param("positions", embedding_init(net), shape)


def _row_column(net: nn.Module) -> Array:
  """A vector per row plus a vector per column of the position grid.

  Released VQ-Diffusion checkpoints with 16x16 tokens use the first 256 entries
  of a flattened 32x32 grid, so two rows of tokens share a row of the table.
  """
  h, w = net.position_grid or net.grid
  rows = net.param("rows", _block.EMBEDDING, (h, net.width))
  columns = net.param("columns", _block.EMBEDDING, (w, net.width))
  table = (rows[:, None] + columns).reshape(h * w, net.width)
  return table[: math.prod(net.grid)]


def _sinusoidal(net: nn.Module) -> Array:
  """The sinusoid of the raster index."""
  return _block.sinusoid(jnp.arange(math.prod(net.grid)), net.width)


POSITIONS: dict[str, Callable[[nn.Module], Array]] = {
  "learnt": _learnt,
  "row_column": _row_column,
  "sinusoidal": _sinusoidal,
}
