"""Official keys -> our tree, with every key accounted for.

A file of rules is data: (pattern, path) pairs. The first pattern that matches a
whole key says where its tensor goes; `path` may refer to the pattern's groups.

- A path that ends in "weight" is the weight of a layer: it becomes the `scale`
  of a norm or the `kernel` of a linear map or a convolution, in our layout.
- Any other path is a table, or a bias, and is copied.
- A group named `layer` is the depth: such tensors are stacked on axis 0, as a
  scan over blocks wants them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vq_jax import weights

State = Mapping[str, Any]  # Official names -> arrays.
Rules = Sequence[tuple[str, str]]
Drops = Mapping[str, str]  # What it is -> the pattern of its keys.


def locate(
  key: str, tensor: Any, rules: Rules
) -> tuple[str, int | None, np.ndarray] | None:
  """Where a tensor goes: (path, layer, array in our layout), or None.

  Args:
    key: its official name.
    tensor: its value: linear [out in], convolution [out in h w].
    rules: see the module.

  Raises:
    ValueError: a layer's weight has a rank that no layer of ours has.
  """
  for pattern, path in rules:
    match = re.fullmatch(pattern, key)
    if match:
      layer = match.groupdict().get("layer")
      path, array = _arrange(key, match.expand(path), tensor)
      return path, None if layer is None else int(layer), array
  return None


def tree(
  state: State, rules: Rules, drops: Drops, wanted: Any, where: str
) -> dict[str, Any]:
  """The parameter tree that a whole state dict stands for.

  Args:
    state: official names -> arrays.
    rules: see the module.
    drops: keys that have no place in our tree, by the name of what they are.
    wanted: our tree, of anything with a shape: it must be filled exactly.
    where: what is being read, for the messages.

  Returns:
    A nested dict of float32 numpy arrays.

  Raises:
    ValueError: names the first tensor that no rule knows, that comes twice,
      that is missing, or that has another shape.
  """
  found: dict[str, dict[int | None, np.ndarray]] = {}
  for key, tensor in state.items():
    if any(re.fullmatch(pattern, key) for pattern in drops.values()):
      continue
    place = locate(key, tensor, rules)
    if place is None:
      raise ValueError(
        f"{where} has a tensor {key!r}, which has no place here."
      )
    path, layer, array = place
    layers = found.setdefault(path, {})
    if layer in layers:
      raise ValueError(
        f"{where} has {path!r} twice, the second time as {key!r}."
      )
    layers[layer] = array
  flat = {path: _stack(path, layers, where) for path, layers in found.items()}
  weights.check(flat, weights.flatten(wanted), where)
  return weights.unflatten(flat)


def prefixed(prefix: str, rules: Rules) -> Rules:
  """The same rules for keys that start with `prefix`."""
  return [(re.escape(prefix) + pattern, path) for pattern, path in rules]


def shape(state: State, key: str, where: str) -> tuple[int, ...]:
  """The shape of a tensor that must be there, ValueError naming it if not."""
  if key not in state:
    raise ValueError(f"{where} lacks the tensor {key!r}.")
  return tuple(state[key].shape)


def count(keys: Iterable[str], pattern: str) -> int:
  """One more than the largest number that `pattern`, a prefix, captures.

  Numbers in between may be missing: `tree` notices.
  """
  found = (re.match(pattern, key) for key in keys)
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def _arrange(key: str, path: str, tensor: Any) -> tuple[str, np.ndarray]:
  """A layer's weight by our name, in our layout; tables stay as they are."""
  array = np.asarray(tensor, np.float32)
  parent, _, leaf = path.rpartition("/")
  if leaf != "weight":
    return path, array
  if array.ndim not in _LAYOUTS:
    raise ValueError(f"{key!r} of shape {array.shape} is no weight of a layer.")
  name, order = _LAYOUTS[array.ndim]
  array = array.transpose(order)
  if array.shape[:-2] == (1, 1):  # A linear map of channels.
    array = array[0, 0]
  return f"{parent}/{name}", array


def _stack(
  path: str, layers: Mapping[int | None, np.ndarray], where: str
) -> np.ndarray:
  """The tensors of one path, one per layer, or the only one."""
  if None in layers:
    return layers[None]
  for i in range(max(layers) + 1):
    if i not in layers:
      raise ValueError(f"{where} lacks layer {i} of the tensor {path!r}.")
    if layers[i].shape != layers[0].shape:
      raise ValueError(
        f"{where} has {path!r} of shape {layers[i].shape} in layer {i},"
        f" of {layers[0].shape} in layer 0."
      )
  return np.stack([layers[i] for i in range(len(layers))])


# Rank of a layer's weight -> our name and order: norm, linear, convolution.
_LAYOUTS = {
  1: ("scale", (0,)),
  2: ("kernel", (1, 0)),
  4: ("kernel", (2, 3, 1, 0)),
}
