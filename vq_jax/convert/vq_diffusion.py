"""Released VQ-Diffusion priors: text, class, and unconditional.

Gu et al. 2022, arXiv:2111.14822; Tang et al. 2022, arXiv:2205.16007. Shapes
tell all hyper-parameters but the number of heads and, without text, the grid.
"""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import plugins
from vq_jax.convert import _keys, _torch
from vq_jax.types import Condition

WHERE = "The VQ-Diffusion checkpoint"
TOKENS = "content_emb.emb.weight"

_BLOCK = r"blocks\.(?P<layer>\d+)\."
_NORMS = {"ln1": "attention_norm", "ln1_1": "cross_norm", "ln2": "mlp_norm"}
_ATTENTIONS = {"attn1?": "attention", "attn2": "cross_attention"}

RULES: _keys.Rules = (
  (r"content_emb\.emb\.weight", "tokens/embedding"),
  (r"content_emb\.height_emb\.weight", "rows"),
  (r"content_emb\.width_emb\.weight", "columns"),
  (r"to_logits\.0\.(weight|bias)", r"norm/\1"),
  (r"to_logits\.1\.(weight|bias)", r"head/\1"),
  *(
    rule
    for theirs, ours in _NORMS.items()
    for rule in (
      (rf"{_BLOCK}{theirs}\.emb\.weight", f"blocks/{ours}/embedding"),
      (
        rf"{_BLOCK}{theirs}\.linear\.(weight|bias)",
        rf"blocks/{ours}/modulation/\2",
      ),
      (rf"{_BLOCK}{theirs}\.(weight|bias)", rf"blocks/{ours}/norm/\2"),
    )
  ),
  *(
    rule
    for theirs, ours in _ATTENTIONS.items()
    for rule in (
      (
        rf"{_BLOCK}{theirs}\.(query|key|value)\.(weight|bias)",
        rf"blocks/{ours}/\2/\3",
      ),
      (rf"{_BLOCK}{theirs}\.proj\.(weight|bias)", rf"blocks/{ours}/out/\2"),
    )
  ),
  (rf"{_BLOCK}mlp\.(?:0|conv1)\.(weight|bias)", r"blocks/mlp/up/\2"),
  (rf"{_BLOCK}mlp\.(?:2|conv2)\.(weight|bias)", r"blocks/mlp/down/\2"),
)

_OUTER = r"(?:transformer\.)?"
DROPS: _keys.Drops = {
  "schedule tables, which we compute": (
    rf"{_OUTER}log_(?:(?:cumprod_)?[abc]t|1_min_(?:cumprod_)?ct)"
  ),
  "loss history per time, which starts anew": rf"{_OUTER}Lt_(?:history|count)",
  "text encoder, a file of its own": rf"{_OUTER}condition_emb\..*",
  "features of no text, see `null_text`": rf"{_OUTER}empty_text_embed",
  "image codec, a file of its own": r"content_codec\..*",
  "causal mask that is never applied": (
    r"(?:transformer\.){0,2}blocks\.\d+\.attn2\.mask"
  ),
}


def transformer(
  state: _keys.State,
  *,
  grid: tuple[int, int] | None = None,
  heads: int = 16,
  activation: str = "sigmoid",
  null_label: bool | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The net of a state dict of VQ-Diffusion.

  Args:
    state: official names -> arrays; of the network, the diffusion model or the
      whole system, that is with "transformer." zero, one or two times in front.
    grid: (h, w) of the tokens; None is the square that the cross-attention of
      text models tells.
    heads: attention heads, 16 in all released models.
    activation: of the MLP, "sigmoid" in all released models.
    null_label: whether the last row of the table of classes is "no class".
      None decides as for the released ones: of 1001 rows it is.

  Returns:
    (config.net, parameters): a section with its name, and a tree of arrays.

  Raises:
    ValueError: names a tensor that is unknown, missing or misshapen.
  """
  prefix = _prefix(state)
  inner = {
    key.removeprefix(prefix): value
    for key, value in state.items()
    if key.startswith(prefix)
  }
  section = {
    "name": "transformer",
    "heads": heads,
    "activation": activation,
    **_sizes(inner),
    **_places(inner, grid),
    **_mlp(inner),
    **_condition(inner, null_label),
  }
  net = plugins.build("nets", "Net", section, "the converted net")
  rules = _keys.prefixed(prefix, RULES)
  return section, _keys.tree(state, rules, DROPS, _abstract(net), WHERE)


def null_text(state: _keys.State) -> np.ndarray | None:
  """What stands for an empty caption in guidance: [m d] float32, if learnt.

  It is not normalised, unlike features of captions (arXiv:2205.16007, eq. 8).
  """
  for key in ("empty_text_embed", "transformer.empty_text_embed"):
    if key in state:
      return np.asarray(state[key], np.float32)
  return None


def load(
  path: str | os.PathLike, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
  """A released .pth, its split parts concatenated -> (config, parameters).

  Averaged weights are preferred.

  Args:
    path: the file.
    **options: of `transformer`.

  Returns:
    {"net": section, "prior": section} and {"net": tree}, with "null" [m d]
    where the features of no text are learnt.

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: torch is not installed.
    ValueError: it is not such a checkpoint; names the tensor.
  """
  content = _torch.read_state(path)
  state = content.get("ema") or content.get("model") or content
  section, net = transformer(state, **options)
  prior = {
    "name": "vq_diffusion",
    "vocab_size": section["vocab_size"],
    "time_steps": section["time_steps"],
  }
  params: dict[str, Any] = {"net": net}
  null = null_text(state)
  if null is not None:
    params["null"] = null
  return {"net": section, "prior": prior}, params


def _prefix(state: _keys.State) -> str:
  """What stands in front of the names of the network."""
  for prefix in ("", "transformer.", "transformer.transformer."):
    if prefix + TOKENS in state:
      return prefix
  raise ValueError(f"{WHERE} lacks the tensor {TOKENS!r}.")


def _sizes(state: _keys.State) -> dict[str, Any]:
  """Codes, depth, width and number of times."""
  _, width = _keys.shape(state, TOKENS, WHERE)
  return {
    "vocab_size": _keys.shape(state, "to_logits.1.weight", WHERE)[0],
    "layers": _keys.count(state, r"blocks\.(\d+)\."),
    "width": width,
    "time": "learnt",
    "time_steps": _keys.shape(state, "blocks.0.ln1.emb.weight", WHERE)[0],
  }


def _places(state: _keys.State, grid: tuple[int, int] | None) -> dict[str, Any]:
  """The grid of tokens, and that of the position tables where it differs."""
  mask = state.get("blocks.0.attn2.mask")
  if grid is None:
    n = 0 if mask is None else mask.shape[-1]
    grid = (math.isqrt(n),) * 2
    if mask is None or math.prod(grid) != n:
      raise ValueError(f"{WHERE} does not tell its grid: give grid=(h, w).")
  if mask is not None and mask.shape[-1] != math.prod(grid):
    raise ValueError(f"{WHERE} has {mask.shape[-1]} tokens, not {grid}.")
  tables = tuple(
    _keys.shape(state, f"content_emb.{side}_emb.weight", WHERE)[0]
    for side in ("height", "width")
  )
  section: dict[str, Any] = {"grid": tuple(grid), "position": "row_column"}
  if tables != tuple(grid):
    section["position_grid"] = tables
  return section


def _mlp(state: _keys.State) -> dict[str, Any]:
  """Fully connected or convolutional, and how wide."""
  conv = "blocks.0.mlp.conv1.weight" in state
  first = "blocks.0.mlp.conv1.weight" if conv else "blocks.0.mlp.0.weight"
  hidden, width = _keys.shape(state, first, WHERE)[:2]
  return {"mlp": "conv" if conv else "fc", "mlp_ratio": hidden // width}


def _condition(state: _keys.State, null_label: bool | None) -> dict[str, Any]:
  """Text if there is cross-attention, classes if they modulate a norm."""
  section: dict[str, Any] = {}
  if "blocks.0.attn2.key.weight" in state:
    section["text_dim"] = state["blocks.0.attn2.key.weight"].shape[1]
  if "blocks.0.ln2.emb.weight" in state:
    rows = state["blocks.0.ln2.emb.weight"].shape[0]
    null = rows == 1001 if null_label is None else null_label
    section |= {"labels": rows - null, "null_label": null}
  elif null_label:
    raise ValueError(f"{WHERE} has no classes, so no null_label.")
  return section


def _abstract(net: Any) -> Any:
  """The tree that `net` needs, not computed."""
  cond = Condition(
    jnp.zeros(1, jnp.int32) if net.labels else None,
    jnp.zeros((1, 1, net.text_dim)) if net.text_dim else None,
  )
  z = jnp.zeros((1, math.prod(net.grid)), jnp.int32)
  args = (z, jnp.zeros(1), cond)
  return jax.eval_shape(net.init, jax.random.key(0), *args)["params"]
