"""What tests of chains with T steps share."""

import functools

import jax
import jax.numpy as jnp

from vq_jax import transitions


def ends(index, steps):
  """Step `index` = 0..T-1 of the released code as (s, t)."""
  index = jnp.asarray(index, jnp.float32)
  return index / steps, (index + 1) / steps


@functools.partial(jax.jit, static_argnums=0)
def posterior(prior, index, log_probs, z):
  s, t = ends(index, prior.time_steps)
  return transitions.posterior(prior.kernel(s), prior.kernel(t), log_probs, z)
