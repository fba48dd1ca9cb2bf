"""Released tokenizers of Unleashing Transformers, with their likelihood head.

Bond-Taylor et al. 2021, arXiv:2111.12701. Their modules are numbered lists:
what a number stands for follows from the tensors it has.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vq_jax import plugins
from vq_jax.convert import _keys, _torch, _vqgan

WHERE = "The VQGAN checkpoint"
PART = "ae."  # The tokenizer, where it is one part of a training state.
OTHERS: _keys.Drops = {
  "discriminator": r"disc\..*",
  "perceptual distance": r"perceptual\..*",
}
# A tensor that only one kind of module has -> the kind.
KINDS = {"norm1.weight": "res", "q.weight": "attn", "conv.weight": "resample"}
_END = r"\.(weight|bias)"
RULES: _keys.Rules = (
  (rf"quantize\.proj{_END}", r"quantize/proj/\1"),
  (r"quantize\.(?:embedding|embed)\.weight", "quantize/codebook"),
  (rf"generator\.logsigma\.0{_END}", r"decoder/logsigma/hidden/\1"),
  (rf"generator\.logsigma\.2{_END}", r"decoder/logsigma/out/\1"),
)
HALVES = {"encoder": "encoder", "generator": "decoder"}  # Theirs -> ours.
VARIANT = {
  "projections": False,
  "final_swish": False,
  "decoder_extra": 0,
  "unit_range": True,
}


def tokenizer(
  state: _keys.State, image_size: int = 256
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The tokenizer of a state dict, of raw or averaged weights.

  Args:
    state: official names -> arrays; of the autoencoder, or of all that was
      trained.
    image_size: pixels a side that it was trained on: shapes do not tell.

  Returns:
    (config.tokenizer, parameters): a section with its name, and a tree. It has
    a likelihood head if the file has one, trained or not.

  Raises:
    ValueError: names a tensor that is unknown, missing or misshapen.
  """
  state = _own(state)
  levels = _levels(state)
  attends = levels.pop("attends")
  section = {
    "name": "vqgan",
    "image_size": image_size,
    **_sizes(state),
    **levels,
    "attention": tuple(image_size >> i for i, yes in enumerate(attends) if yes),
    "logsigma": any(key.startswith("generator.logsigma.") for key in state),
    **VARIANT,
  }
  module = plugins.build("tokenizer", "Tokenizer", section, "the tokenizer")
  names = modules(levels["blocks"], attends)
  wanted = _vqgan.abstract(module)
  params = _keys.tree(state, rules(names), idle(state), wanted, WHERE)
  return section, params


def load(
  path: str | os.PathLike, image_size: int = 256
) -> tuple[dict[str, Any], dict[str, Any]]:
  """A released vqgan_<step>.th or vqgan_ema_<step>.th -> (config, parameters).

  Args:
    path: the file.
    image_size: see `tokenizer`.

  Returns:
    {"tokenizer": section} and {"tokenizer": tree}.

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: torch is not installed.
    ValueError: it is not such a checkpoint; names the tensor.
  """
  state = _torch.read_state(path)
  section, params = tokenizer(state, image_size)
  return {"tokenizer": section}, {"tokenizer": params}


def modules(blocks: int, attends: Sequence[bool]) -> dict[str, list[str]]:
  """Our names of the numbered modules, by their name of the half.

  Args:
    blocks: residual blocks per level.
    attends: whether each level attends, the finest first.
  """
  mid = ["mid/block_1", "mid/attn_1", "mid/block_2"]
  levels = range(len(attends))
  down, up = (
    [
      name
      for i in order
      for name in _stage(way, i, blocks, attends[i], i != order[-1])
    ]
    for way, order in (("down", levels), ("up", levels[::-1]))
  )
  head = ["norm_out", "conv_out"]
  return {
    "encoder": ["conv_in", *down, *mid, *head],
    "generator": ["conv_in", *mid, *up, *head],
  }


def rules(names: Mapping[str, Sequence[str]]) -> _keys.Rules:
  """Where every tensor of the numbered modules `names` goes."""
  found = list(RULES)
  for half, there in HALVES.items():
    for i, name in enumerate(names[half]):
      theirs, ours = rf"{half}\.blocks\.{i}", f"{there}/{name}"
      found += [
        (theirs + _END, rf"{ours}/\1"),
        (rf"{theirs}\.conv_out{_END}", rf"{ours}/nin_shortcut/\1"),
        (rf"{theirs}\.(\w+){_END}", rf"{ours}/\1/\2"),
      ]
  return found


def idle(state: _keys.State) -> _keys.Drops:
  """The 1x1 convolutions of blocks that keep their width, which are unused."""
  blocks = [
    key.removesuffix("norm1.bias")
    for key in state
    if key.endswith(".norm1.bias")
  ]
  same = [
    re.escape(block)
    for block in blocks
    if _keys.shape(state, f"{block}norm1.bias", WHERE)
    == _keys.shape(state, f"{block}norm2.bias", WHERE)
  ]
  return {"unused shortcut": rf"(?:{'|'.join(same)})conv_out\..*"}


def _own(state: _keys.State) -> _keys.State:
  """The autoencoder's part of a state, under its own names."""
  if not any(key.startswith(PART) for key in state):
    return state
  part = {}
  for key, value in state.items():
    if key.startswith(PART):
      part[key.removeprefix(PART)] = value
    elif not any(re.fullmatch(other, key) for other in OTHERS.values()):
      raise ValueError(
        f"{WHERE} has a tensor {key!r}, which has no place here."
      )
  return part


def _stage(
  way: str, i: int, blocks: int, attends: bool, resamples: bool
) -> list[str]:
  """The modules of level i, in order; `way` is "down" or "up"."""
  names = []
  for j in range(blocks):
    names.append(f"{way}_{i}/block_{j}")
    names += [f"{way}_{i}/attn_{j}"] * attends
  return names + [f"{way}_{i}/{way}sample"] * resamples


def _sizes(state: _keys.State) -> dict[str, Any]:
  """Channels and codebook. Gumbel models of theirs are trained on mixtures."""
  gumbel = "quantize.proj.weight" in state
  book = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
  vocab_size, code_dim = _keys.shape(state, book, WHERE)
  channels, image_channels = _keys.shape(
    state, "encoder.blocks.0.weight", WHERE
  )[:2]
  return {
    "image_channels": image_channels,
    "channels": channels,
    "latent_dim": code_dim,
    "vocab_size": vocab_size,
    "code_dim": code_dim,
    "quantizer": "gumbel_soft" if gumbel else "nearest",
  }


def _levels(state: _keys.State) -> dict[str, Any]:
  """Widths, depth and attention, by level, from the encoder's list."""
  count = _keys.count(state, r"encoder\.blocks\.(\d+)\.")
  kinds = [_kind(state, f"encoder.blocks.{i}.") for i in range(count)]
  narrow = _keys.shape(state, "encoder.blocks.0.weight", WHERE)[0]
  levels: list[dict[str, Any]] = [{"blocks": 0, "attends": False}]
  # Before them is a convolution; after them the bottleneck, norm, convolution.
  for i, kind in enumerate(kinds[1:-5], 1):
    if kind == "resample":
      levels.append({"blocks": 0, "attends": False})
    elif kind == "attn":
      levels[-1]["attends"] = True
    else:
      bias = _keys.shape(state, f"encoder.blocks.{i}.conv2.bias", WHERE)
      levels[-1]["multiplier"] = bias[0] // narrow
      levels[-1]["blocks"] += 1
  if not all(level["blocks"] for level in levels):
    raise ValueError(f"{WHERE} has a level of the encoder without blocks.")
  return {
    "multipliers": tuple(level["multiplier"] for level in levels),
    "blocks": levels[0]["blocks"],
    "attends": tuple(level["attends"] for level in levels),
  }


def _kind(state: _keys.State, prefix: str) -> str:
  """What a numbered module is; "plain" is a norm or a convolution."""
  found = (kind for key, kind in KINDS.items() if prefix + key in state)
  return next(found, "plain")
