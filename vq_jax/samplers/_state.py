"""What samplers of chains do with a state, be it ids or embeddings."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import plugins, schedules
from vq_jax.samplers._run import Run
from vq_jax.types import Array, Key, Model

# What is equally spaced between the steps of a sampler.
GRIDS = ("time", "log_snr")

Hold = Callable[[Key, Array, Array], Array]  # (key, z, t) -> z


def grid(prior: Any, steps: int, name: str = "time") -> Array:
  """1 = t_0 > ... > t_steps = 0. -> [steps + 1].

  Raises:
    ValueError: steps < 1; there is no such grid, or the prior has no log SNR.
  """
  if name not in GRIDS:
    raise ValueError(plugins.unknown(name, GRIDS, "There is no grid"))
  times = schedules.uniform_grid(steps)
  if name == "time":
    return times
  if not hasattr(prior, "log_snr"):
    raise ValueError(
      f"The grid 'log_snr' needs a prior that has one, and"
      f" {type(prior).__module__} has not: take 'time'."
    )
  noise, signal = (prior.log_snr(jnp.float32(end)) for end in (1.0, 0.0))
  between = prior.time(noise + (1.0 - times) * (signal - noise))
  return between.at[0].set(1.0).at[-1].set(0.0)


def holder(model: Model, prior: Any, known: Array | None) -> Hold:
  """(key, z, t) -> z_t with what is known in its place.

  Ids are written as they are; of embeddings as noisy ones as z_t has
  (arXiv:2201.09865, eq. 8a), of the noise that the key stands for.

  known: ids [b n], with `prior.vocab_size` where free, or None.
  """

  def hold(key: Key, z: Array, t: Array) -> Array:
    if known is None:
      return z
    free = known == prior.vocab_size
    if model.codes is None:
      return jnp.where(free, z, known)
    key, t = jax.random.fold_in(key, 1), jnp.broadcast_to(t, z.shape[:1])
    noisy = prior.corrupt(key, model, jnp.broadcast_to(known, z.shape[:2]), t)
    return jnp.where(free[..., None], z, noisy)

  return hold


def finish(
  key: Key,
  model: Model,
  prior: Any,
  z: Array,
  known: Array | None,
  states: Array,
  times: Array,
) -> Run:
  """The run that ended in z [b n ..]; its states [steps + 1, b n ..] as ids."""
  ids = prior.finish(key, model, z)
  if model.codes is None:
    return Run(ids, states)
  if known is not None:
    ids = jnp.where(known == prior.vocab_size, ids, known)
  shown = jax.lax.map(lambda at: prior.show(model, *at), (states, times))
  return Run(ids, shown.at[-1].set(ids))
