"""Reading torch files. Only tensors and plain containers are unpickled."""

import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np


def read(path: str | os.PathLike) -> Any:
  """What is in a .pth, .pt or .ckpt file, its tensors as numpy arrays.

  Floating-point tensors become float32. Nothing in the file is executed.

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: torch is not installed.
    ValueError: the file is not whole, or holds more than weights.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no checkpoint {path}.")
  try:
    import torch
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"Reading {path} needs torch, for this step alone: pip install torch."
    ) from error
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
    reason = str(error).partition("\n")[0]
    raise ValueError(
      f"{path} cannot be read as weights ({reason}). Parts"
      " of a split file must be concatenated first; a file you trust that holds"
      " other objects must be saved again with its state_dict alone."
    ) from error
  return _to_numpy(content)


def read_state(path: str | os.PathLike) -> Mapping[str, Any]:
  """`read` of a file that must hold a mapping, such as a state dict.

  Raises:
    ValueError: it holds something else; and as `read` does.
  """
  content = read(path)
  if not isinstance(content, Mapping):
    raise ValueError(f"{path} holds no state dict.")
  return content


def _to_numpy(content: Any) -> Any:
  """Tensors -> arrays, through mappings."""
  if isinstance(content, Mapping):
    return {key: _to_numpy(value) for key, value in content.items()}
  if not hasattr(content, "detach"):
    return content
  tensor = content.detach()
  # numpy has no bfloat16.
  array = tensor.float() if tensor.is_floating_point() else tensor
  return np.asarray(array.numpy())
