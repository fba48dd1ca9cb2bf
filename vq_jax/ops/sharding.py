"""The one thing a network says about devices: activations follow the batch."""

import jax
from jax.sharding import PartitionSpec as P

from vq_jax.types import Array

BATCH_AXES = ("data", "fsdp")


def pin_batch(x: Array) -> Array:
  """Splits the leading axis of x [b ...] over the mesh; a no-op without one.

  Without this pin the compiler may replicate the residual stream of a model
  whose weights are split over `fsdp`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
    return x
  return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))
