"""The network of every prior: a transformer over a grid of codes.

One module covers the published systems by its fields:

  Unleashing Transformers, arXiv:2111.12701: no time, learnt positions,
    exact GELU, head without bias; `causal` is its autoregressive baseline.
  VQ-Diffusion, arXiv:2111.14822: learnt time, row and column positions, sigmoid
    GELU; `text_dim` for captions, `labels` and `mlp="conv"` for ImageNet.
  VQ-LCMD, arXiv:2410.14758: `code_dim`, sinusoidal time and positions.
  MaskGIT, arXiv:2202.04200: no time, learnt positions, tanh GELU, and BERT's
    wiring: `post_norm`, `label_token`, `tied_head`, norm_epsilon=1e-12.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vq_jax.nets import _block, _ends, _inputs
from vq_jax.types import Array, Condition

TIME_SCALE = 4000.0  # t = 1 in the units of the sinusoid, arXiv:2111.14822.


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
    label_token: the class is a token in front of the others, and no norm hears
      of it; its logits are left out.
    null_label: "no class" has a learnt row of its own; it is the mean of the
      classes otherwise.
    text_dim: features of a text token; 0 for no text.
    pooled_text: AdaLN hears the mean of the text as well, which no published
      system here has: a small net then learns sooner to follow captions.
    post_norm: norms behind the sums, not in front of the layers: there is one
      of the embedding, and none before the head (arXiv:1810.04805).
    norm_epsilon: added to the variance in every norm.
    tied_head: logits are products with the embeddings of tokens: see
      `_ends.TiedHead`.
    head_bias: the last layer has a bias; a tied one always has.
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
  label_token: bool = False
  text_dim: int = 0
  pooled_text: bool = False
  post_norm: bool = False
  norm_epsilon: float = 1e-5
  tied_head: bool = False
  head_bias: bool = True
  outputs: int = 0
  dropout: float = 0.0
  attention_dropout: float = 0.0
  remat: bool = True
  dtype: Any = "float32"

  def __post_init__(self) -> None:
    """Refuses fields that name nothing or exclude each other, ValueError."""
    _inputs.check_fields(self)
    super().__post_init__()

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
    places = _ends.POSITIONS[self.position](self)
    if index is not None:
      places = jnp.take(places, index, axis=0)
    tokens = self._tokens()
    x = self._embed(tokens, z, index)
    if self.label_token:
      x = jnp.concatenate([_ends.label_token(self, cond.label), x], axis=1)
    x = x + places
    if self.post_norm:
      x = self._layer_norm("embedding_norm")(x)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = x.astype(self.dtype)
    x = self._blocks(x, self._signal(t, cond), cond, train, index)
    if not self.post_norm:
      x = self._layer_norm("norm")(x)
    return self._head(tokens, x[:, 1:] if self.label_token else x)

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

  def _tokens(self) -> nn.Module:
    """What z becomes, token by token: a table, or a linear map."""
    if self.code_dim:
      shape = (self.vocab_size + 1, self.code_dim)
      self.param("codes", nn.initializers.normal(self.code_std), shape)
      return _block.Dense(self.width, dtype=self.dtype, name="tokens")
    rows, init = self.vocab_size + (not self.causal), _ends.embedding_init(self)
    return nn.Embed(rows, self.width, embedding_init=init, name="tokens")

  def _embed(
    self, tokens: nn.Module, z: Array, index: Array | int | None
  ) -> Array:
    """z -> [b n d] before positions are added."""
    if not self.causal:
      return tokens(z)
    start = self.param("start", _ends.embedding_init(self), (self.width,))
    if index is not None:
      return jnp.where(index == 0, start, tokens(z))
    start = jnp.broadcast_to(start, (z.shape[0], 1, self.width))
    return jnp.concatenate([start, tokens(z[:, :-1])], axis=1)

  def _layer_norm(self, name: str) -> nn.Module:
    return _block.layer_norm(self.norm_epsilon, name=name)

  def _head(self, tokens: nn.Module, x: Array) -> Array:
    """The residual stream [b n d] -> logits [b n K], float32."""
    if self.tied_head:
      head = _ends.TiedHead(
        self.vocab_size, self.activation, self.norm_epsilon, name="head"
      )
      return head(x.astype(jnp.float32), tokens)
    # Quiet: training starts from the uniform distribution.
    outputs = self.outputs or self.vocab_size
    head = _block.Dense(
      outputs, self.head_bias, kernel_init=_block.NORMAL, name="head"
    )
    return head(x.astype(jnp.float32))

  def _signal(self, t: Array | None, cond: Condition) -> Array | None:
    """What modulates the norms of the attentions: [b] or [b d]."""
    if self.time is None:
      return self._topic(cond)
    if self.time == "sinusoidal":
      return _block.sinusoid(TIME_SCALE * t, self.width)
    step = jnp.round(t * self.time_steps).astype(jnp.int32) - 1
    return jnp.clip(step, 0, self.time_steps - 1)

  def _topic(self, cond: Condition) -> Array | None:
    """What modulates the norms of the MLPs: [b] or [b d]."""
    if self.label_token:
      return None
    return jnp.mean(cond.text, 1) if self.pooled_text else cond.label

  def _norms(self) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Constructors of the norms of the attentions and of the MLP."""
    epsilon = self.norm_epsilon
    adaptive = functools.partial(_block.AdaptiveNorm, epsilon=epsilon)
    by_label = functools.partial(_block.AffineNorm, epsilon=epsilon)
    if self.labels and not self.label_token:
      by_label = functools.partial(
        adaptive,
        rows=self.labels + self.null_label,
        mean_row=not self.null_label,
      )
    elif self.pooled_text:
      by_label = adaptive
    if self.time is None:
      return by_label, by_label
    rows = self.time_steps if self.time == "learnt" else None
    return functools.partial(adaptive, rows=rows), by_label

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
        # Where no layer looks at neighbours there may be any number of tokens.
        grid=self.grid if self.mlp == "conv" else (1, 1),
        ratio=self.mlp_ratio,
        dtype=self.dtype,
      ),
      causal=self.causal,
      post_norm=self.post_norm,
      dropout=self.dropout,
      train=train,
      name="blocks",
    )
    x, _ = blocks(x, signal, self._topic(cond), cond.text, index)
    return x
