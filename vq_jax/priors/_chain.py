"""What priors share: the cost of a token, times, and the bound over them."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax.types import Array, Key, Model


def nats(log_probs: Array, x: Array) -> Array:
  """-log p(x): log p [b n K], x [b n] -> [b n]."""
  return -jnp.take_along_axis(log_probs, x[..., None], -1)[..., 0]


def stratified(key: Key, b: int) -> Array:
  """Numbers [b], each uniform in [0, 1), one in every interval of 1 / b."""
  return (jax.random.uniform(key) + jnp.arange(b) / b) % 1.0


def step(u: Array, steps: int) -> tuple[Array, Array]:
  """Uniform u [b] in [0, 1) -> the ends s < t [b] of one of `steps` steps."""
  before = jnp.floor(u * steps)
  return before / steps, (before + 1) / steps


def bits(prior: Any, key: Key, model: Model, x: Array) -> Array:
  """The chain's negative ELBO in bits per token [b], without the term at t = 1.

  Args:
    prior: with `bound_times` calls per example, spread evenly over [0, 1), and
      methods `times`, `corrupt` and `cost`, whose second result is averaged.
    key: of times and noise.
    model: the denoiser.
    x: clean ids [b n].
  """

  def one(i: Array) -> Array:
    key_t, key_z = jax.random.split(jax.random.fold_in(key, i))
    u = (i + jax.random.uniform(key_t, x.shape[:1])) / prior.bound_times
    s, t = prior.times(jnp.minimum(u, 1.0 - 1e-7))
    z = prior.corrupt(key_z, model, x, t)
    return prior.cost(model.denoise(z, t), z, x, s, t)[1]

  return jnp.mean(jax.lax.map(one, jnp.arange(prior.bound_times)), 0)


def finish(prior: Any, key: Key, model: Model, z: Array) -> Array:
  """The ids at t = 0, where no mask is left: z as it is."""
  del prior, key, model
  return z
