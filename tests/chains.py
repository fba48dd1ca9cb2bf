"""What tests of chains with T steps share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import transitions
from vq_jax.types import NEVER, Model


def ends(index, steps):
  """Step `index` = 0..T-1 of the released code as (s, t)."""
  index = jnp.asarray(index, jnp.float32)
  return index / steps, (index + 1) / steps


@functools.partial(jax.jit, static_argnums=0)
def posterior(prior, index, log_probs, z):
  s, t = ends(index, prior.time_steps)
  return transitions.posterior(prior.kernel(s), prior.kernel(t), log_probs, z)


def toy_law(k):
  """One token of k codes with a known law, and its exact denoiser."""
  law = np.random.default_rng(0).dirichlet(np.ones(k))

  def denoiser(prior):
    def denoise(z, t):
      def one(z, t):
        to = jax.vmap(
          lambda x: transitions.marginal(
            prior.kernel(t), jnp.where(jnp.arange(k) == x, 0.0, NEVER)
          )
        )(jnp.arange(k))  # [x z]
        return jax.nn.log_softmax(jnp.log(law) + to[:, z[0]])[None]

      return jax.vmap(one)(z, t)

    return Model(denoise)

  return law, denoiser
