"""Released VQGAN tokenizers: nearest-code and Gumbel models.

Esser et al. 2021, arXiv:2012.09841. The same layout holds the tokenizers that
VQ-Diffusion (arXiv:2111.14822) was trained on, its own f8 model included.
"""

import os
import re
from typing import Any

import numpy as np

from vq_jax import plugins
from vq_jax.convert import _keys, _torch, _vqgan

WHERE = "The VQGAN checkpoint"

_HALF = r"(encoder|decoder)\."
_END = r"\.(weight|bias)"
RULES: _keys.Rules = (
  (rf"{_HALF}(conv_in|norm_out|conv_out){_END}", r"\1/\2/\3"),
  (rf"{_HALF}mid\.(block_[12]|attn_1)\.(\w+){_END}", r"\1/mid/\2/\3/\4"),
  (
    rf"{_HALF}(down|up)\.(\d+)\.(block|attn)\.(\d+)\.(\w+){_END}",
    r"\1/\2_\3/\4_\5/\6/\7",
  ),
  (
    rf"{_HALF}(down|up)\.(\d+)\.(downsample|upsample)\.conv{_END}",
    r"\1/\2_\3/\4/conv/\5",
  ),
  (rf"(quant_conv|post_quant_conv){_END}", r"\1/\2"),
  (rf"quantize\.proj{_END}", r"quantize/proj/\1"),
  (r"quantize\.(?:embedding|embed)\.weight", "quantize/codebook"),
  (r"quantize\.embedding", "quantize/codebook"),
)
# Where the tokenizer is one part of a checkpoint: its prefix, the other parts.
PARTS = {
  "first_stage_model.": r"(?:transformer|cond_stage_model)\..*",
  "content_codec.": r"transformer\..*",
}
DROPS: _keys.Drops = {
  "discriminator and perceptual distance": r"loss\..*",
  "colours of segmentation maps": r"colorize",
  "subset of codes, see `to_small`": r"quantize\.used",
  "running sums of a codebook": r"quantize\.(?:cluster_size|embedding_avg)",
}
CODEBOOKS = (
  "quantize.embedding.weight",
  "quantize.embed.weight",
  "quantize.embedding",
)


def tokenizer(
  state: _keys.State,
  image_size: int = 256,
  to_small: np.ndarray | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The tokenizer of a state dict.

  Args:
    state: official names -> arrays; of the model, or of a system that it is
      part of.
    image_size: pixels a side that it was trained on: shapes do not tell.
    to_small: id in a reduced vocabulary for every code of the codebook, of
      which 0 also stands for all codes that are not kept; None keeps all.

  Returns:
    (config.tokenizer, parameters): a section with its name, and a tree.

  Raises:
    ValueError: names a tensor that is unknown, missing or misshapen, or says
      why `to_small` is no such table.
  """
  state = _own(state)
  section = {
    "name": "vqgan",
    "image_size": image_size,
    **_sizes(state),
    **_levels(state, image_size),
  }
  module = plugins.build("tokenizer", "Tokenizer", section, "the tokenizer")
  params = _keys.tree(state, RULES, DROPS, _vqgan.abstract(module), WHERE)
  if to_small is None:
    return section, params
  remap = kept_codes(to_small, section["vocab_size"])
  section["kept_codes"] = len(remap["to_full"])
  return section, {**params, "remap": remap}


def kept_codes(to_small: np.ndarray, vocab_size: int) -> dict[str, np.ndarray]:
  """Both tables of a reduced vocabulary, from the one that is released.

  Args:
    to_small: ids [vocab_size] in 0..kept-1, each of which occurs.
    vocab_size: codes in the codebook.

  Returns:
    to_small [vocab_size] and to_full [kept], int32; several codes share small
    id 0, and the first of them stands for it.

  Raises:
    ValueError: another length, or ids that are not 0..kept-1.
  """
  to_small = np.asarray(to_small)
  if to_small.shape != (vocab_size,):
    raise ValueError(
      f"to_small has shape {to_small.shape}; the codebook has {vocab_size}"
      " codes."
    )
  small, first = np.unique(to_small, return_index=True)
  if not np.array_equal(small, np.arange(len(small))):
    raise ValueError(f"to_small must use all of 0..{to_small.max()}.")
  return {
    "to_small": to_small.astype(np.int32),
    "to_full": first.astype(np.int32),
  }


def load(
  path: str | os.PathLike,
  image_size: int = 256,
  to_small: str | os.PathLike | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """A released .ckpt or .pth -> (config, parameters).

  Args:
    path: the file.
    image_size: see `tokenizer`.
    to_small: file with the table of a reduced vocabulary.

  Returns:
    {"tokenizer": section} and {"tokenizer": tree}.

  Raises:
    FileNotFoundError: a file is missing.
    ModuleNotFoundError: torch is not installed.
    ValueError: it is not such a checkpoint; names the tensor.
  """
  content = _torch.read_state(path)
  state = content.get("state_dict") or content.get("model") or content
  table = None if to_small is None else _torch.read(to_small)
  section, params = tokenizer(state, image_size, table)
  return {"tokenizer": section}, {"tokenizer": params}


def _own(state: _keys.State) -> _keys.State:
  """The tokenizer's part of a state, under the names of the model itself.

  Codecs of VQ-Diffusion are stored as an encoder and a decoder that both hold
  the codebook; the encoder's is taken.
  """
  for prefix, others in PARTS.items():
    if any(key.startswith(prefix) for key in state):
      state = _part(state, prefix, others)
  if not any(key.startswith("enc.") for key in state):
    return state
  return {
    key.removeprefix("enc.").removeprefix("dec."): value
    for key, value in state.items()
    if not key.startswith("dec.quantize.")
  }


def _part(state: _keys.State, prefix: str, others: str) -> _keys.State:
  """What starts with `prefix`, without it; all else must match `others`."""
  part = {}
  for key, value in state.items():
    if key.startswith(prefix):
      part[key.removeprefix(prefix)] = value
    elif not re.fullmatch(others, key):
      raise ValueError(
        f"{WHERE} has a tensor {key!r}, which has no place here."
      )
  return part


def _sizes(state: _keys.State) -> dict[str, Any]:
  """Channels and codebook."""
  books = [key for key in CODEBOOKS if key in state]
  if not books:
    raise ValueError(f"{WHERE} lacks the tensor {CODEBOOKS[0]!r}.")
  vocab_size, code_dim = _keys.shape(state, books[0], WHERE)
  channels, image_channels = _keys.shape(
    state, "encoder.conv_in.weight", WHERE
  )[:2]
  return {
    "image_channels": image_channels,
    "channels": channels,
    "latent_dim": _keys.shape(state, "encoder.conv_out.weight", WHERE)[0],
    "vocab_size": vocab_size,
    "code_dim": code_dim,
    "quantizer": "gumbel" if "quantize.proj.weight" in state else "nearest",
  }


def _levels(state: _keys.State, image_size: int) -> dict[str, Any]:
  """Widths, depth and attention, by level."""
  levels = _keys.count(state, r"encoder\.down\.(\d+)\.")
  blocks = _keys.count(state, r"encoder\.down\.0\.block\.(\d+)\.")
  up = _keys.count(state, r"decoder\.up\.0\.block\.(\d+)\.")
  narrow = _keys.shape(state, "encoder.conv_in.weight", WHERE)[0]
  widths = [
    _keys.shape(state, f"encoder.down.{i}.block.0.conv1.weight", WHERE)[0]
    for i in range(levels)
  ]
  attends = [
    f"encoder.down.{i}.attn.0.q.weight" in state for i in range(levels)
  ]
  return {
    "multipliers": tuple(width // narrow for width in widths),
    "blocks": blocks,
    "decoder_extra": up - blocks,
    "attention": tuple(image_size >> i for i in range(levels) if attends[i]),
  }
