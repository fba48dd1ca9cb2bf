"""LPIPS with the VGG16 trunk -> features/lpips.py.

The trunk is torchvision's VGG16; the heads come in a small file of their own,
or with the trunk in the state dict of a whole LPIPS.
"""

import os
import re
from typing import Any

import numpy as np

from vq_jax import weights
from vq_jax.convert import _keys, _torch
from vq_jax.features import lpips
from vq_jax.types import Params

WHERE = "The LPIPS checkpoint"

# Place in torchvision's `features` -> our name: pools and ReLUs lie between.
_PLACES = {
  place: f"conv{i}_{j}"
  for i, places in enumerate(
    ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), 1
  )
  for j, place in enumerate(places, 1)
}
RULES: _keys.Rules = (
  *(
    (rf"(?:features|net\.slice\d)\.{place}\.(weight|bias)", rf"{name}/\1")
    for place, name in _PLACES.items()
  ),
  (r"(lin\d)\.model\.1\.weight", r"\1"),
)
DROPS: _keys.Drops = {
  "VGG16's classes": r"classifier\..*",
  "the heads once more": r"lins\.\d\.model\.1\.weight",
  "mean and deviation of the inputs": r"scaling_layer\.(?:shift|scale)",
}


def load(
  path: str | os.PathLike, heads: str | os.PathLike | None = None
) -> tuple[dict[str, Any], Params]:
  """Official files -> (section, parameters).

  Args:
    path: torchvision's VGG16, or the state dict of a whole LPIPS.
    heads: the file with the heads, if `path` holds none.

  Raises:
    FileNotFoundError: a file is missing.
    ModuleNotFoundError: torch is not installed.
    ValueError: they are not those files; names the tensor.
  """
  state = dict(_torch.read_state(path))
  if heads is not None:
    state |= _torch.read_state(heads)
  return {"name": lpips.NAME}, network(state)


def network(state: _keys.State) -> Params:
  """Official names -> our parameters, float32.

  Raises:
    ValueError: names a tensor that is unknown, missing or misshapen, or says
      how to give the heads.
  """
  heads = [key for key in state if re.fullmatch(RULES[-1][0], key)]
  if not heads:
    raise ValueError(
      f"{WHERE} has no heads: add --option=heads={lpips.HEADS}, the file with"
      " lin0.model.1.weight."
    )
  # The heads are convolutions of one pixel to one number, [1 c 1 1].
  flat = {key: np.reshape(state[key], -1) for key in heads}
  wanted = {k: np.broadcast_to(0.0, s) for k, s in lpips.shapes().items()}
  return _keys.tree(
    {**state, **flat}, RULES, DROPS, weights.unflatten(wanted), WHERE
  )
