"""What a net is given, checked while it is traced."""

from vq_jax.types import Array


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
