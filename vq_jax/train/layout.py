"""One mesh for every machine, and a table that says where each array lives."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vq_jax.ops.sharding import BATCH_AXES

AXES = ("data", "fsdp", "tensor")
SMALLEST_SPLIT = (
  2**16
)  # Elements; smaller arrays cost more to gather than keep.


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
  """The devices as a grid (data, fsdp, tensor); -1 takes what is left.

  The batch is split over data and fsdp, weights over fsdp and tensor.

  Raises:
    ValueError: the sizes do not multiply to the number of devices, or a slice
      of the batch would be shared by two hosts.
  """
  devices = np.array(jax.devices())
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) == 1:
    rest = max(math.prod(size for size in sizes if size != -1), 1)
    sizes[sizes.index(-1)] = max(devices.size // rest, 1)
  if math.prod(sizes) != devices.size or min(sizes) < 1:
    raise ValueError(
      f"config.mesh asks for data={data}, fsdp={fsdp}, tensor={tensor}, but"
      f" there are {devices.size} devices; the product must be that number"
      " (-1 for one axis takes what is left)."
    )
  if sizes[0] * sizes[1] % jax.process_count():
    raise ValueError(
      f"config.mesh splits the batch in data x fsdp = {sizes[0] * sizes[1]}"
      f" parts, which do not divide over {jax.process_count()} hosts; take a"
      " smaller tensor axis."
    )
  return Mesh(devices.reshape(sizes), AXES)


def replicate(shape: tuple[int, ...], mesh: Mesh) -> P:
  """A whole copy on every device."""
  del shape, mesh
  return P()


def split(shape: tuple[int, ...], mesh: Mesh) -> P:
  """fsdp on the largest axis it divides, tensor on the largest one left."""
  spec: list[str | None] = [None] * len(shape)
  if math.prod(shape) < SMALLEST_SPLIT:
    return P()
  for name in ("fsdp", "tensor"):
    size = mesh.shape[name]
    fits = [i for i, d in enumerate(shape) if spec[i] is None and d % size == 0]
    if size > 1 and fits:
      spec[max(fits, key=lambda i: shape[i])] = name
  return P(*spec)


Rule = Callable[[tuple[int, ...], Mesh], P]

# First match wins. Paths of EMA weights and optimizer moments contain the path
# of the parameter, so that one row places all of them.
RULES: tuple[tuple[str, Rule], ...] = (
  # Lookup tables have K + 1 rows, and a gather from a split table would
  # replicate it anyway.
  (r"embedding$|codes$|codebook$", replicate),
  (r"", split),
)


def layout(tree: Any, mesh: Mesh, rules: tuple = RULES) -> Any:
  """A NamedSharding per leaf of a tree of arrays or shapes."""

  def place(path: tuple, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    rule = next(rule for pattern, rule in rules if re.search(pattern, name))
    return NamedSharding(mesh, rule(tuple(leaf.shape), mesh))

  return jax.tree_util.tree_map_with_path(place, tree)


def check_batch(size: int, mesh: Mesh, where: str) -> None:
  """ValueError unless the mesh divides a positive global batch of `size`."""
  shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  if size < 1 or size % shards:
    raise ValueError(
      f"{where} is {size}, which does not divide over {shards} devices"
      f" (data x fsdp); take a multiple of {shards}."
    )


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict:
  """This host's rows [b ...] -> global arrays split over the batch axes."""
  sharding = NamedSharding(mesh, P(BATCH_AXES))
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
    for name, rows in batch.items()
  }
