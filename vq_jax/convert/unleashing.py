"""Released priors of Unleashing Transformers: absorbing and autoregressive.

Bond-Taylor et al. 2022, arXiv:2111.12701. Shapes tell all hyper-parameters but
the number of heads, and the grid is square.
"""

import math
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import plugins
from vq_jax.convert import _keys, _torch
from vq_jax.types import Condition

WHERE = "The Unleashing Transformers checkpoint"
TOKENS = "tok_emb.weight"
# In front of the net's names: the net itself, absorbing, autoregressive.
PREFIXES = ("", "_denoise_fn.", "net.")

_BLOCK = r"blocks\.(?P<layer>\d+)\."
_END = r"\.(weight|bias)"
RULES: _keys.Rules = (
  (r"tok_emb\.weight", "tokens/embedding"),
  (r"pos_emb", "positions"),
  (rf"{_BLOCK}ln1{_END}", r"blocks/attention_norm/norm/\2"),
  (rf"{_BLOCK}ln2{_END}", r"blocks/mlp_norm/norm/\2"),
  (rf"{_BLOCK}attn\.(query|key|value){_END}", r"blocks/attention/\2/\3"),
  (rf"{_BLOCK}attn\.proj{_END}", r"blocks/attention/out/\2"),
  (rf"{_BLOCK}mlp\.0{_END}", r"blocks/mlp/up/\2"),
  (rf"{_BLOCK}mlp\.2{_END}", r"blocks/mlp/down/\2"),
  (rf"ln_f{_END}", r"norm/\1"),
  (r"head\.(weight)", r"head/\1"),
)
START = r"start_tok"
CAUSAL_RULES: _keys.Rules = (*RULES, (START, "start"))

_PREFIX = r"(?:_denoise_fn\.|net\.)?"
DROPS: _keys.Drops = {
  "start token that only the autoregressive net reads": f"{_PREFIX}{START}",
  "loss history per time, which starts anew": (
    r"Lt_history|Lt_count|loss_history"
  ),
}
CAUSAL_DROPS: _keys.Drops = {
  "causal mask, which we compute": rf"{_PREFIX}blocks\.\d+\.attn\.mask",
}


def transformer(
  state: _keys.State, *, heads: int = 8
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The net of a state dict.

  A net is causal if its table of tokens has no row for the mask.

  Args:
    state: official names -> arrays; of the network, or of the sampler, that is
      with "_denoise_fn." or "net." in front.
    heads: attention heads, 8 in all released models.

  Returns:
    (config.net, parameters): a section with its name, and a tree of arrays.

  Raises:
    ValueError: names a tensor that is unknown, missing or misshapen.
  """
  prefix = _prefix(state)
  section = {"name": "transformer", "heads": heads, **_sizes(state, prefix)}
  net = plugins.build("nets", "Net", section, "the converted net")
  rules, drops = RULES, DROPS
  if net.causal:
    rules, drops = CAUSAL_RULES, CAUSAL_DROPS
  rules = _keys.prefixed(prefix, rules)
  # Positions [1 n d] and the start token [1 1 d] have no batch axis here.
  lead = {f"{prefix}{name}" for name in ("pos_emb", "start_tok")}
  state = {k: np.squeeze(v) if k in lead else v for k, v in state.items()}
  return section, _keys.tree(state, rules, drops, _abstract(net), WHERE)


def load(
  path: str | os.PathLike, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
  """A released absorbing_*.th or autoregressive_*.th -> (config, parameters).

  Args:
    path: the file; that of averaged weights has "ema" in its name.
    **options: of `transformer`.

  Returns:
    {"net": section, "prior": section} and {"net": tree}.

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: torch is not installed.
    ValueError: it is not such a checkpoint; names the tensor.
  """
  state = _torch.read_state(path)
  section, net = transformer(state, **options)
  prior = {"name": "autoregressive", "vocab_size": section["vocab_size"]}
  if not section["causal"]:
    prior |= {
      "name": "absorbing",
      "loss_weight": "reweighted_released",
      "time_steps": _time_steps(state, section["grid"]),
    }
  return {"net": section, "prior": prior}, {"net": net}


def _prefix(state: _keys.State) -> str:
  """What stands in front of the names of the network."""
  for prefix in PREFIXES:
    if prefix + TOKENS in state:
      return prefix
  if any(key.startswith("ae.") for key in state):
    raise ValueError(f"{WHERE} is that of a tokenizer, not of a prior.")
  raise ValueError(f"{WHERE} lacks the tensor {TOKENS!r}.")


def _sizes(state: _keys.State, prefix: str) -> dict[str, Any]:
  """Codes, grid, depth and widths."""

  def shape(name: str) -> tuple[int, ...]:
    return _keys.shape(state, prefix + name, WHERE)

  rows, width = shape(TOKENS)
  vocab_size = shape("head.weight")[0]
  if rows not in (vocab_size, vocab_size + 1):
    raise ValueError(
      f"{WHERE} has {rows} tokens and {vocab_size} logits; with a mask there is"
      " one token more, without it as many."
    )
  n = shape("pos_emb")[-2]
  side = math.isqrt(n)
  if side * side != n:
    raise ValueError(f"{WHERE} has {n} tokens an image, which is no square.")
  pattern = re.escape(prefix) + r"blocks\.(\d+)\."
  return {
    "vocab_size": vocab_size,
    "grid": (side, side),
    "layers": _keys.count(state, pattern),
    "width": width,
    "mlp_ratio": shape("blocks.0.mlp.0.weight")[0] // width,
    "causal": rows == vocab_size,
    "head_bias": False,
  }


def _time_steps(state: _keys.State, grid: tuple[int, int]) -> int:
  """T, for which the histories have a row each, and one for t = 0."""
  if "Lt_history" in state:
    return len(state["Lt_history"]) - 1
  return math.prod(grid)


def _abstract(net: Any) -> Any:
  """The tree that `net` needs, not computed."""
  z = jnp.zeros((1, math.prod(net.grid)), jnp.int32)
  args = (z, None, Condition())
  return jax.eval_shape(net.init, jax.random.key(0), *args)["params"]
