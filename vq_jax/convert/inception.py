"""FID's InceptionV3 -> features/inception.py.

The layout is that of pytorch-fid and torch-fidelity, whose files hold the same
tensors: TensorFlow's archive of 2015-12-05.
"""

import os
from typing import Any

from vq_jax.convert import _keys, _torch
from vq_jax.features import inception
from vq_jax.types import Params

WHERE = "The Inception checkpoint"

_LAYERS = {r"(\w+)": r"\1", r"(\w+)\.(\w+)": r"\1/\2"}
RULES: _keys.Rules = (
  (r"fc\.weight", "fc/weight"),
  *(
    (rf"{theirs}\.{key}", rf"{ours}/{path}")
    for theirs, ours in _LAYERS.items()
    for key, path in (
      (r"conv\.weight", "conv/weight"),
      (r"bn\.(?P<kind>weight|bias)", r"bn/\g<kind>"),
      (r"bn\.running_(?P<kind>mean|var)", r"bn/\g<kind>"),
    )
  ),
)
DROPS: _keys.Drops = {
  "bias of the classes, which the Inception Score leaves out": r"fc\.bias",
  "counters of training": r".*\.num_batches_tracked",
}


def load(path: str | os.PathLike) -> tuple[dict[str, Any], Params]:
  """A .pth file -> (section, parameters).

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: torch is not installed.
    ValueError: it is not that network; names the tensor.
  """
  return {"name": inception.NAME}, network(_torch.read_state(path))


def network(state: _keys.State) -> Params:
  """Official names -> our parameters, float32.

  Raises:
    ValueError: names a tensor that is unknown, missing or misshapen.
  """
  return _keys.tree(state, RULES, DROPS, inception.abstract(), WHERE)
