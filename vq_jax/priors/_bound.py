"""The bound on the likelihood of ids under a chain on embeddings.

-log p(x) <= KL(q(z_1 | x) || N(0, 1)) + E[-log p(x | z_0)]
             - 1/2 int_0^1 SNR'(t) E|e(x) - e^(z_t)|^2 dt,
eq. 2 of arXiv:2410.14758, in the words of VDM (arXiv:2107.00630).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vq_jax.priors import _chain, _gaussian
from vq_jax.priors._embedded import expect
from vq_jax.types import Array, Key, Model


class Terms(NamedTuple):
  """Of the bound on -log2 p(x) / n (eq. 2), bits per token [b].

  Attributes:
    start: KL(q(z_1 | x) || N(0, 1)).
    reconstruction: -log2 p(x | z_0).
    diffusion: -1/2 E[SNR'(t) |e(x) - e^(z_t)|^2], its integral over t.
  """

  start: Array
  reconstruction: Array
  diffusion: Array


def terms(prior: Any, key: Key, model: Model, x: Array) -> Terms:
  """An unbiased estimate of the bound's terms, x [b n].

  Times are stratified, `prior.bound_times` of them; no token is dropped.
  """
  key_0, key_times = jax.random.split(key)
  codes, view = prior.table(model), prior.posterior(model)
  zero, one = jnp.zeros(x.shape[:1]), jnp.ones(x.shape[:1])
  start = _gaussian.start_nats(codes[x], prior.log_snr(one))
  z = prior.corrupt(key_0, model, x, zero)
  reconstruction = _chain.nats(view.denoise(z, zero), x)

  def term(i: Array) -> Array:
    key_t, key_z = jax.random.split(jax.random.fold_in(key_times, i))
    u = jax.random.uniform(key_t, x.shape[:1])
    t = (i + u) / prior.bound_times
    z = prior.corrupt(key_z, model, x, t)
    guess = expect(view.denoise(z, t), codes)
    error = jnp.sum(jnp.square(codes[x] - guess), -1)
    return -0.5 * prior.slope(t)[:, None] * error

  diffusion = jnp.mean(jax.lax.map(term, jnp.arange(prior.bound_times)), 0)
  found = Terms(start, reconstruction, diffusion)
  return jax.tree.map(lambda a: jnp.mean(a, 1) / math.log(2.0), found)
