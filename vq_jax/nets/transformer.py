"""The network of every prior: a transformer over a grid of codes.

One module covers the published systems by its fields:

  Unleashing Transformers, arXiv:2111.12701: no time, learnt positions,
    exact GELU, head without bias; `causal` is its autoregressive baseline.
  VQ-Diffusion, arXiv:2111.14822: learnt time, row and column positions, sigmoid
    GELU; `text_dim` for captions, `labels` and `mlp="conv"` for ImageNet.
  VQ-LCMD, arXiv:2410.14758: `code_dim`, sinusoidal time and positions.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vq_jax import plugins
from vq_jax.nets import _block, _inputs
from vq_jax.types import Array, Condition

TIMES = (None, "learnt", "sinusoidal")
TIME_SCALE = 4000.0  # t = 1 in the units of the sinusoid, arXiv:2111.14822.


def _learnt(net: "Net") -> Array:
  """A vector per token."""
  shape = (math.prod(net.grid), net.width)
  return net.param("positions", _block.EMBEDDING, shape)


def _row_column(net: "Net") -> Array:
  """A vector per row plus a vector per column of the position grid.

  Released VQ-Diffusion checkpoints with 16x16 tokens use the first 256 entries
  of a flattened 32x32 grid, so two rows of tokens share a row of the table.
  """
  h, w = net.position_grid or net.grid
  rows = net.param("rows", _block.EMBEDDING, (h, net.width))
  columns = net.param("columns", _block.EMBEDDING, (w, net.width))
  table = (rows[:, None] + columns).reshape(h * w, net.width)
  return table[: math.prod(net.grid)]


def _sinusoidal(net: "Net") -> Array:
  """The sinusoid of the raster index."""
  return _block.sinusoid(jnp.arange(math.prod(net.grid)), net.width)


POSITIONS: dict[str, Callable[["Net"], Array]] = {
  "learnt": _learnt,
  "row_column": _row_column,
  "sinusoidal": _sinusoidal,
}


class Net(nn.Module):
  """(z, t, cond) -> logits [b n K] over clean tokens, float32.

  Where the condition enters a block: time through AdaLN in front of both
  attentions, the class through AdaLN in front of the MLP, text through
  cross-attention, and with `pooled_text` its mean where the class would be. A
  net without time has the class in front of both.

  Attributes:
    vocab_size: K. The table of tokens has K + 1 rows, the last for MASK; a
      causal net has K.
    grid: (h, w); n = h * w tokens in raster order.
    layers: blocks.
    width: features of the residual stream.
    heads: attention heads, a divisor of `width`.
    causal: logits at i come from tokens before i, shifted in behind a learnt
      start token.
    code_dim: z holds embeddings [b n code_dim], not ids. The net then owns the
      parameter `codes` [K + 1 code_dim], the table that the prior embeds with,
      the last row for MASK; the net itself never reads it.
    code_std: of the normal law that `codes` starts from. That of
      arXiv:2410.14758 is not known; 1 is inferred from its weights, which
      presume squared distances of the order of code_dim.
    mlp: "fc", or "conv" for 3x3 convolutions on the grid.
    mlp_ratio: hidden features per feature in the MLP.
    activation: GELU as "exact", "tanh", or "sigmoid": x sigmoid(1.702 x).
    position: "learnt", "row_column" or "sinusoidal".
    position_grid: (h, w) of the row and column tables where it is not `grid`.
    time: None, "learnt" (a table per norm) or "sinusoidal".
    time_steps: T, rows of the learnt tables; t is row round(t T) - 1, and t = 0
      shares row 0.
    labels: number of classes; 0 for none. Label `labels` means "no class".
    null_label: "no class" has a learnt row of its own; it is the mean of the
      classes otherwise.
    text_dim: features of a text token; 0 for no text.
    pooled_text: AdaLN hears the mean of the text as well, which no published
      system here has: a small net then learns sooner to follow captions.
    head_bias: the last layer has a bias.
    outputs: numbers per token of the last layer; 0 is K. A critic has 1.
    dropout: rate on the embedding and on what joins the residual stream.
    attention_dropout: rate on attention weights.
    remat: recompute blocks in the backward pass instead of storing them, in a
      loop over depth that is compiled once; False unrolls that loop.
    dtype: compute type. Parameters, norms, softmax and logits are float32.
  """

  vocab_size: int
  grid: tuple[int, int]
  layers: int
  width: int
  heads: int
  causal: bool = False
  code_dim: int = 0
  code_std: float = 1.0
  mlp: str = "fc"
  mlp_ratio: int = 4
  activation: str = "exact"
  position: str = "learnt"
  position_grid: tuple[int, int] | None = None
  time: str | None = None
  time_steps: int = 100
  labels: int = 0
  null_label: bool = False
  text_dim: int = 0
  pooled_text: bool = False
  head_bias: bool = True
  outputs: int = 0
  dropout: float = 0.0
  attention_dropout: float = 0.0
  remat: bool = True
  dtype: Any = "float32"

  def __post_init__(self) -> None:
    """Refuses fields that name nothing or exclude each other, ValueError."""
    for field, legal in (
      ("mlp", _block.LAYERS),
      ("activation", _block.ACTIVATIONS),
      ("position", POSITIONS),
    ):
      if getattr(self, field) not in legal:
        name = getattr(self, field)
        raise ValueError(plugins.unknown(name, legal, f"There is no {field}"))
    if self.time not in TIMES:
      raise ValueError(f"There is no time {self.time!r}. Choices: {TIMES}.")
    self._check_sizes()
    super().__post_init__()

  def _check_sizes(self) -> None:
    if self.width % self.heads:
      raise ValueError(f"{self.heads} heads do not divide width {self.width}.")
    if self.causal and (self.code_dim or self.mlp == "conv" or self.time):
      raise ValueError(
        "A causal net reads ids, and has no time and no convolutions, which"
        " look ahead."
      )
    if self.pooled_text and (self.labels or not self.text_dim):
      raise ValueError("pooled_text needs text_dim, and labels = 0.")
    if self.position_grid and self.position != "row_column":
      raise ValueError("position_grid needs position='row_column'.")
    places = math.prod(self.position_grid or self.grid)
    if places < math.prod(self.grid):
      raise ValueError(f"position_grid {self.position_grid} < {self.grid}.")

  @nn.compact
  def __call__(
    self,
    z: Array,
    t: Array | None,
    cond: Condition,
    *,
    train: bool = False,
    index: Array | int | None = None,
  ) -> Array:
    """Logits over the clean token at every position, or at one.

    Args:
      z: ids [b n] in 0..K, K = MASK (causal: 0..K-1), or, with `code_dim`,
        embeddings [b n code_dim].
      t: times [b] in [0, 1]; a net without `time` ignores it, None included.
      cond: label [b] in 0..labels and text [b m text_dim], exactly those that
        the net is built for.
      train: dropout is active and needs an rng named "dropout".
      index: of a causal net, the one position that is asked for; z [b 1] is
        then the token in front of it, whatever that is at 0. What was computed
        for earlier positions is in the collections "past", which is written,
        and "once", which the first call writes.

    Returns:
      Logits [b n K], or [b 1 K] at an index, float32.

    Raises:
      ValueError: a shape, or a missing or superfluous input.
    """
    self._check_inputs(z, t, cond, index is not None)
    places = POSITIONS[self.position](self)
    if index is not None:
      places = jnp.take(places, index, axis=0)
    x = self._embed(z, index) + places
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = x.astype(self.dtype)
    x = self._blocks(x, self._signal(t, cond), cond, train, index)
    x = _block.layer_norm(name="norm")(x)
    # Quiet: training starts from the uniform distribution.
    outputs = self.outputs or self.vocab_size
    head = _block.Dense(
      outputs, self.head_bias, kernel_init=_block.NORMAL, name="head"
    )
    return head(x)

  def _check_inputs(
    self, z: Array, t: Array | None, cond: Condition, one: bool
  ) -> None:
    if one and not self.causal:
      raise ValueError("Only a causal net goes token by token: causal=True.")
    n = 1 if one else math.prod(self.grid)
    tail = (n, self.code_dim) if self.code_dim else (n,)
    kind = jnp.floating if self.code_dim else jnp.integer
    if z.shape[1:] != tail or not jnp.issubdtype(z.dtype, kind):
      raise ValueError(
        f"z is {z.dtype}{list(z.shape)}; this net takes {kind.__name__} "
        f"[b {' '.join(map(str, tail))}]."
      )
    b = z.shape[:1]
    for name, value, wanted, shape in (
      ("t", t if self.time else None, self.time, b),
      ("cond.label", cond.label, self.labels, b),
      ("cond.text", cond.text, self.text_dim, (*b, None, self.text_dim)),
    ):
      _inputs.check(name, value, bool(wanted), shape)

  def _embed(self, z: Array, index: Array | int | None) -> Array:
    """z -> [b n d] before positions are added."""
    if self.code_dim:
      shape = (self.vocab_size + 1, self.code_dim)
      self.param("codes", nn.initializers.normal(self.code_std), shape)
      return _block.Dense(self.width, dtype=self.dtype, name="tokens")(z)
    rows = self.vocab_size + (not self.causal)
    table = nn.Embed(
      rows, self.width, embedding_init=_block.EMBEDDING, name="tokens"
    )
    if not self.causal:
      return table(z)
    start = self.param("start", _block.EMBEDDING, (self.width,))
    if index is not None:
      return jnp.where(index == 0, start, table(z))
    start = jnp.broadcast_to(start, (z.shape[0], 1, self.width))
    return jnp.concatenate([start, table(z[:, :-1])], axis=1)

  def _signal(self, t: Array | None, cond: Condition) -> Array | None:
    """What modulates the norms in front of the attentions: [b] or [b d]."""
    if self.time is None:
      return self._topic(cond)
    if self.time == "sinusoidal":
      return _block.sinusoid(TIME_SCALE * t, self.width)
    step = jnp.round(t * self.time_steps).astype(jnp.int32) - 1
    return jnp.clip(step, 0, self.time_steps - 1)

  def _topic(self, cond: Condition) -> Array | None:
    """What modulates the norms in front of the MLPs: [b] or [b d]."""
    return jnp.mean(cond.text, 1) if self.pooled_text else cond.label

  def _norms(self) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Constructors of the norms before the attentions and before the MLP."""
    by_label = _block.AffineNorm
    if self.labels:
      by_label = functools.partial(
        _block.AdaptiveNorm,
        rows=self.labels + self.null_label,
        mean_row=not self.null_label,
      )
    elif self.pooled_text:
      by_label = _block.AdaptiveNorm
    if self.time is None:
      return by_label, by_label
    rows = self.time_steps if self.time == "learnt" else None
    return functools.partial(_block.AdaptiveNorm, rows=rows), by_label

  def _blocks(
    self,
    x: Array,
    signal: Array | None,
    cond: Condition,
    train: bool,
    index: Array | int | None,
  ) -> Array:
    """The residual stream [b n d] through all blocks, scanned over depth."""
    norm, mlp_norm = self._norms()
    block = _block.Block
    if self.remat:  # Inside a scan nothing is there to be merged by CSE.
      block = nn.remat(block, prevent_cse=False)
    scan = nn.scan(
      block,
      variable_axes={"params": 0, "past": 0, "once": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=self.layers,
      # What a loop stores for the backward pass it copies into a stack.
      unroll=1 if self.remat else self.layers,
    )
    blocks = scan(
      norm=norm,
      mlp_norm=mlp_norm,
      attention=functools.partial(
        _block.Attention,
        heads=self.heads,
        tokens=math.prod(self.grid),
        dropout=self.attention_dropout,
        dtype=self.dtype,
      ),
      mlp=functools.partial(
        _block.Mlp,
        layer=self.mlp,
        activation=self.activation,
        grid=self.grid if index is None else (1, 1),
        ratio=self.mlp_ratio,
        dtype=self.dtype,
      ),
      causal=self.causal,
      dropout=self.dropout,
      train=train,
      name="blocks",
    )
    x, _ = blocks(x, signal, self._topic(cond), cond.text, index)
    return x
