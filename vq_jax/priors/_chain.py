"""What priors that are Markov chains share: times, and the bound over them."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax.types import Array, Key, Model


def stratified(key: Key, b: int) -> Array:
  """Numbers [b], each uniform in [0, 1), one in every interval of 1 / b."""
  return (jax.random.uniform(key) + jnp.arange(b) / b) % 1.0


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
