"""What a net is made of and given, checked before anything is computed."""

import math
from typing import Any

from vq_jax import plugins
from vq_jax.nets import _block, _ends
from vq_jax.types import Array

TIMES = (None, "learnt", "sinusoidal")


def check(
  name: str,
  value: Array | None,
  wanted: bool,
  shape: tuple[int | None, ...],
) -> None:
  """ValueError unless value is there if wanted, and has that shape."""
  if (value is not None) != wanted:
    state = "needs" if wanted else "takes no"
    raise ValueError(f"This net {state} {name}.")
  if value is None:
    return
  fits = len(value.shape) == len(shape) and all(
    size in (None, actual)
    for size, actual in zip(shape, value.shape, strict=True)
  )
  if not fits:
    raise ValueError(f"{name} is {list(value.shape)}, not {list(shape)}.")


def check_fields(net: Any) -> None:
  """ValueError if fields of a transformer name nothing or exclude others."""
  for field, legal in (
    ("mlp", _block.LAYERS),
    ("activation", _block.ACTIVATIONS),
    ("position", _ends.POSITIONS),
  ):
    if getattr(net, field) not in legal:
      name = getattr(net, field)
      raise ValueError(plugins.unknown(name, legal, f"There is no {field}"))
  if net.time not in TIMES:
    raise ValueError(f"There is no time {net.time!r}. Choices: {TIMES}.")
  if net.width % net.heads:
    raise ValueError(f"{net.heads} heads do not divide width {net.width}.")
  if net.causal and (net.code_dim or net.mlp == "conv" or net.time):
    raise ValueError(
      "A causal net reads ids, and has no time and no convolutions, which"
      " look ahead."
    )
  if net.pooled_text and (net.labels or not net.text_dim):
    raise ValueError("pooled_text needs text_dim, and labels = 0.")
  if net.label_token and (
    not net.labels
    or net.causal
    or net.mlp == "conv"
    or net.position != "learnt"
  ):
    raise ValueError(
      "label_token needs labels, learnt positions, and a net that is neither"
      " causal nor of convolutions."
    )
  if net.tied_head and (net.code_dim or net.outputs):
    raise ValueError("tied_head needs ids, so code_dim = 0 and outputs = 0.")
  if net.position_grid and net.position != "row_column":
    raise ValueError("position_grid needs position='row_column'.")
  places = math.prod(net.position_grid or net.grid)
  if places < math.prod(net.grid):
    raise ValueError(f"position_grid {net.position_grid} < {net.grid}.")
