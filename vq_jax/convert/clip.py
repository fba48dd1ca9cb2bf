"""Released CLIP text towers (arXiv:2103.00020) -> text/clip.py.

Two layouts are in use: OpenAI's, which VQ-Diffusion's checkpoints repeat, and
Hugging Face's. One table of rules reads both, once OpenAI's packed projections
are taken apart.
"""

import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import weights
from vq_jax.convert import _keys, _torch
from vq_jax.text import clip
from vq_jax.types import Params

WHERE = "The CLIP checkpoint"
HEAD_WIDTH = 64  # Of every CLIP transformer; no shape in the file tells it.

_BLOCK = (
  r"(?:transformer\.resblocks|text_model\.encoder\.layers)\.(?P<layer>\d+)\."
)
_PARTS = {
  r"ln_1|layer_norm1": "attention_norm",
  r"ln_2|layer_norm2": "mlp_norm",
  r"self_attn\.q_proj": "query",
  r"self_attn\.k_proj": "key",
  r"self_attn\.v_proj": "value",
  r"(?:attn|self_attn)\.out_proj": "out",
  r"mlp\.(?:c_fc|fc1)": "up",
  r"mlp\.(?:c_proj|fc2)": "down",
}
_PACKED = re.compile(
  r"(?P<block>(?:visual\.)?transformer\.resblocks\.\d+\.)"
  r"attn\.in_proj_(?P<kind>weight|bias)"
)
_HUGGING_FACE = "text_model.embeddings."


def block_rules(block: str, path: str) -> list[tuple[str, str]]:
  """Rules of a tower's blocks; `block` captures `layer`, and nothing else."""
  return [
    (rf"{block}(?:{theirs})\.(weight|bias)", rf"{path}/{ours}/\2")
    for theirs, ours in _PARTS.items()
  ]


RULES: _keys.Rules = (
  (r"(?:text_model\.embeddings\.)?token_embedding\.weight", "tokens/embedding"),
  (
    r"positional_embedding|text_model\.embeddings\.position_embedding\.weight",
    "positions",
  ),
  (r"(?:ln_final|text_model\.final_layer_norm)\.(weight|bias)", r"norm/\1"),
  *block_rules(_BLOCK, "blocks"),
)
DROPS: _keys.Drops = {
  "image tower": r"(?:visual|vision_model)\..*|visual_projection\.weight",
  "what compares the towers": r"text_projection(?:\.weight)?|logit_scale",
  "0, 1, 2, ...": r"text_model\.embeddings\.position_ids",
  "sizes, which shapes tell": r"input_resolution|context_length|vocab_size",
}


def load(path: str | os.PathLike) -> tuple[dict[str, Any], Params]:
  """A file of a whole CLIP or of its text tower, see `read`.

  Returns:
    `section` and `text_tower` of its tensors. Nothing in the file tells the
    activation: towers trained with another GELU than CLIP's convert as well,
    and give wrong features.

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: it is a torch file, and torch is not installed.
    ValueError: it is not a file of tensors, or not one of a CLIP.
  """
  state = read(path)
  return section(state), text_tower(state)


def read(path: str | os.PathLike) -> _keys.State:
  """A safetensors file, or pytorch_model.bin -> released names and arrays.

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: it is a torch file, and torch is not installed.
    ValueError: it is neither.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"There is no CLIP at {path}: get model.safetensors of {clip.SOURCE}."
    )
  if path.suffix in (".bin", ".pt", ".pth"):
    return _torch.read_state(path)
  return weights.load(path)[0]


def section(state: _keys.State) -> dict[str, Any]:
  """The config of a tower, all that shapes tell of it, with its name.

  Raises:
    ValueError: a table is missing, or the width is no multiple of 64.
  """
  names = ("token_embedding.weight", "positional_embedding")
  if any(key.startswith(_HUGGING_FACE) for key in state):
    names = tuple(
      f"{_HUGGING_FACE}{name}_embedding.weight"
      for name in ("token", "position")
    )
  (vocab_size, dim), (length, _) = (
    _keys.shape(state, name, WHERE) for name in names
  )
  return {
    "name": "clip",
    "length": length,
    "dim": dim,
    "layers": _keys.count(state, _BLOCK),
    "heads": heads(dim),
    "vocab_size": vocab_size,
  }


def heads(dim: int) -> int:
  """Attention heads of a tower; ValueError if it is not of CLIP's family."""
  if dim % HEAD_WIDTH:
    raise ValueError(
      f"A tower {dim} wide is not of CLIP's family: its heads are {HEAD_WIDTH}."
    )
  return dim // HEAD_WIDTH


def text_tower(state: _keys.State) -> Params:
  """Released names -> our parameters, float32, blocks stacked over depth.

  Args:
    state: arrays under OpenAI's names ("positional_embedding", ...) or under
      Hugging Face's ("text_model.embeddings.position_embedding.weight", ...).

  Raises:
    ValueError: names a tensor that is unknown, missing or misshapen.
  """
  fields = section(state)
  del fields["name"]
  encoder = clip.Encoder(weights="", merges="", **fields)
  words = jax.ShapeDtypeStruct((1, encoder.length), jnp.int32)
  wanted = jax.eval_shape(encoder.init, jax.random.key(0), words)["params"]
  return _keys.tree(unpack(state), RULES, DROPS, wanted, WHERE)


def unpack(state: _keys.State) -> dict[str, Any]:
  """OpenAI's [3d d] projections as query, key and value, in that order."""
  unpacked = {}
  for key, tensor in state.items():
    packed = _PACKED.fullmatch(key)
    if not packed:
      unpacked[key] = tensor
      continue
    # Not `split`: of a wrong shape the check of shapes says more.
    for letter, part in zip("qkv", np.array_split(tensor, 3), strict=True):
      name = f"{packed['block']}self_attn.{letter}_proj.{packed['kind']}"
      unpacked[name] = part
  return unpacked
