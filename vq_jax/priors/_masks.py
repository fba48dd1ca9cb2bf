"""The chain of priors whose tokens decay to one symbol, and to nothing else.

Functions of a prior, to be taken among its methods. It has `vocab_size`,
`schedule`, a masking ratio, and `masking`, a name in `MASKINGS`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import plugins, schedules, transitions
from vq_jax.types import Array, Key, Model


def bernoulli(key: Key, prob: Array, shape: tuple[int, int]) -> Array:
  """Each token with that probability: prob [b] -> bool [b n]."""
  return jax.random.uniform(key, shape) < prob[:, None]


def exact(key: Key, prob: Array, shape: tuple[int, int]) -> Array:
  """round(prob n) of n tokens, at least one: prob [b] -> bool [b n]."""
  rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, shape), 1), 1)
  count = jnp.maximum(jnp.round(prob * shape[1]), 1)
  return rank < count[:, None]


MASKINGS = {"bernoulli": bernoulli, "exact": exact}


def check(prior: Any) -> None:
  """ValueError unless schedule, masking and bound_times are legal."""
  schedules.masked(prior.schedule)
  if prior.bound_times < 1:
    raise ValueError(f"bound_times must be at least 1: {prior.bound_times}.")
  if prior.masking not in MASKINGS:
    raise ValueError(
      plugins.unknown(prior.masking, MASKINGS, "There is no masking")
    )


def kernel(prior: Any, t: Array) -> transitions.Kernel:
  """The cumulative kernel at time t."""
  return transitions.absorbing(schedules.masked(prior.schedule)(t))


def time(prior: Any, share: Array) -> Array:
  """The time when that share of all tokens is masked, any shape.

  The inverse of the schedule, to a thousandth of the time: good enough to tell
  a network.
  """
  grid = jnp.linspace(0.0, 1.0, 1025)
  return jnp.interp(share, prior.kernel(grid).mask, grid)


def corrupt(
  prior: Any, key: Key, model: Model | None, x: Array, t: Array
) -> Array:
  """z ~ q(z_t | x).  x: ids [b n], t: [b] -> ids [b n]."""
  del model
  mask = MASKINGS[prior.masking](key, prior.kernel(t).mask, x.shape)
  return jnp.where(mask, prior.vocab_size, x)


def start(prior: Any, key: Key, model: Model, shape: tuple[int, int]) -> Array:
  """z at t = 1: all mask. -> ids [b n]."""
  del key, model
  return jnp.full(shape, prior.vocab_size, jnp.int32)


def reverse(
  prior: Any, key: Key, model: Model, z: Array, t: Array, s: Array
) -> Array:
  """z_s ~ p(z_s | z_t), s < t scalars.  z: ids [b n] -> ids [b n]."""
  key_reveal, key_token = jax.random.split(key)
  log_probs = model.denoise(z, jnp.full(z.shape[:1], t))
  token = jax.random.categorical(key_token, log_probs)
  return reveal(prior, jax.random.uniform(key_reveal, z.shape), token, z, t, s)


def reveal(
  prior: Any, u: Array, token: Array, z: Array, t: Array, s: Array
) -> Array:
  """Writes `token` where a mask is lifted between t and s.

  A mask is lifted with probability (alpha_s - alpha_t) / (1 - alpha_t): 1/t
  for one step of T (arXiv:2111.12701, section 3.1), exactly 1 at s = 0.
  u: uniform [b n]; token, z: ids [b n] -> ids [b n].
  """
  remask = prior.kernel(s).mask / prior.kernel(t).mask
  change = (z == prior.vocab_size) & (u >= remask)
  return jnp.where(change, token, z)
