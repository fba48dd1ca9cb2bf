"""A whole released CLIP (arXiv:2103.00020) -> features/clip.py.

Both towers and both projections, from OpenAI's names or Hugging Face's; what
conditions a prior, the text tower alone, is convert/clip.py's.
"""

import math
import os
from typing import Any

from vq_jax.convert import _keys, clip
from vq_jax.features import clip as features
from vq_jax.types import Params

_BLOCK = (
  r"(?:visual\.transformer\.resblocks|vision_model\.encoder\.layers)"
  r"\.(?P<layer>\d+)\."
)
_PATCH = (
  "visual.conv1.weight",
  "vision_model.embeddings.patch_embedding.weight",
)
_PLACES = (
  "visual.positional_embedding",
  "vision_model.embeddings.position_embedding.weight",
)
_PROJECTION = ("visual.proj", "visual_projection.weight")

RULES: _keys.Rules = (
  (
    r"visual\.conv1\.weight|vision_model\.embeddings\.patch_embedding\.weight",
    "image/patch/weight",
  ),
  (
    r"(?:visual|vision_model\.embeddings)\.class_embedding",
    "image/first",
  ),
  (
    r"visual\.positional_embedding"
    r"|vision_model\.embeddings\.position_embedding\.weight",
    "image/positions",
  ),
  # The misspelling is Hugging Face's.
  (
    r"(?:visual\.ln_pre|vision_model\.pre_layrnorm)\.(weight|bias)",
    r"image/first_norm/\1",
  ),
  (
    r"(?:visual\.ln_post|vision_model\.post_layernorm)\.(weight|bias)",
    r"image/norm/\1",
  ),
  *clip.block_rules(_BLOCK, "image/blocks"),
  # OpenAI's projections are [in out] already.
  (r"visual\.proj", "image_projection/kernel"),
  (r"visual_projection\.weight", "image_projection/weight"),
  (r"text_projection", "text_projection/kernel"),
  (r"text_projection\.weight", "text_projection/weight"),
  *((theirs, f"text/{ours}") for theirs, ours in clip.RULES),
)
DROPS: _keys.Drops = {
  "scale of the training loss": r"logit_scale",
  "0, 1, 2, ...": r"(?:text|vision)_model\.embeddings\.position_ids",
  "sizes, which shapes tell": r"input_resolution|context_length|vocab_size",
}


def load(path: str | os.PathLike) -> tuple[dict[str, Any], Params]:
  """A .safetensors file, or a torch file of tensors -> (section, parameters).

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: it is a torch file, and torch is not installed.
    ValueError: it is not a CLIP with two transformers; names the tensor.
  """
  state = clip.read(path)
  config = section(state)
  wanted = features.abstract(config)
  state = clip.unpack(state)
  params = _keys.tree(state, RULES, DROPS, wanted, clip.WHERE)
  return config, params


def section(state: _keys.State) -> dict[str, Any]:
  """The config: name, dim of the embeddings, the fields of both towers.

  Raises:
    ValueError: a table is missing, or a width is no multiple of 64.
  """
  text = clip.section(state)
  del text["name"]
  # OpenAI's name where there is one, else Hugging Face's.
  patch, places, projection = (
    _keys.shape(state, names[0] if names[0] in state else names[1], clip.WHERE)
    for names in (_PATCH, _PLACES, _PROJECTION)
  )
  width, side = patch[0], patch[-1]
  image = {
    "size": math.isqrt(places[0] - 1) * side,
    "patch": side,
    "dim": width,
    "layers": _keys.count(state, _BLOCK),
    "heads": clip.heads(width),
  }
  dim = projection[1 if _PROJECTION[0] in state else 0]
  return {"name": features.NAME, "dim": dim, "text": text, "image": image}
