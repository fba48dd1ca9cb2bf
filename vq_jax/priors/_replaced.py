"""A chain of T steps that may replace codes, and its variational bound.

Functions of a prior, to be taken among its methods. It has `vocab_size`,
`time_steps`, `bound_times`, and the methods `kernel` and `cost`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import transitions
from vq_jax.priors import _chain
from vq_jax.types import NEVER, Array, Key, Model


def check(prior: Any) -> None:
  """ValueError unless there are two steps to take, and a time to look at."""
  if prior.time_steps < 2:
    raise ValueError(f"time_steps must be at least 2, not {prior.time_steps}.")
  if prior.bound_times < 1:
    raise ValueError(f"bound_times must be at least 1: {prior.bound_times}.")


def corrupt(
  prior: Any, key: Key, model: Model | None, x: Array, t: Array
) -> Array:
  """z ~ q(z_t | x).  x: ids [b n], t: [b] -> ids [b n]."""
  del model
  return transitions.corrupt(key, prior.kernel(t), x, prior.vocab_size)


def times(prior: Any, u: Array) -> tuple[Array, Array]:
  """Uniform u [b] in [0, 1) -> the ends s < t [b] of a step."""
  return _chain.step(u, prior.time_steps)


def divergence(
  prior: Any, log_probs: Array, z: Array, x: Array, s: Array, t: Array
) -> Array:
  """KL(q(z_s | z_t, x) || p(z_s | z_t)), -log p(x | z_t) at s = 0; nats [b n].

  p is the sum over x of q(z_s | z_t, x) p(x | z_t), as in arXiv:2107.03006,
  eq. 4. Arguments as for the `cost` of a prior.
  """
  ends = prior.kernel(s), prior.kernel(t)
  is_x = jnp.arange(prior.vocab_size) == x[..., None]
  truth = transitions.posterior(*ends, jnp.where(is_x, 0.0, NEVER), z)
  guess = transitions.posterior(*ends, log_probs, z)
  return jnp.sum(jnp.exp(truth) * (truth - guess), -1)


def bits(prior: Any, key: Key, model: Model, x: Array) -> Array:
  """Unbiased upper bound on -log2 p(x) / n: bits per token [b], x [b n].

  The whole bound: `bound_times` evenly spread steps, and the divergence of
  q(z_1 | x) from the law that `start` draws from.
  """
  return _chain.bits(prior, key, model, x) + start_bits(prior)


def start_bits(prior: Any) -> Array:
  """KL(q(z_1 | x) || p(z_1)) in bits per token; the same for every x."""
  end = prior.kernel(jnp.float32(1.0))
  k, codes = prior.vocab_size, end.keep + end.uniform
  same, other = end.keep + end.uniform / k, end.uniform / k
  mean = jnp.maximum(codes, 1e-30) / k  # If no code is left both terms are 0.
  nats = jax.scipy.special.xlogy(same, same / mean)
  nats += (k - 1) * jax.scipy.special.xlogy(other, other / mean)
  return nats / math.log(2.0)


def start(prior: Any, key: Key, model: Model, shape: tuple[int, int]) -> Array:
  """z at t = 1: masks, and uniform codes with what mass is left. -> [b n]."""
  del model
  mask = prior.kernel(jnp.float32(1.0)).mask
  end = transitions.Kernel(jnp.zeros_like(mask), 1.0 - mask, mask)
  blank = jnp.zeros(shape, jnp.int32)
  return transitions.corrupt(key, end, blank, prior.vocab_size)


def reverse(
  prior: Any, key: Key, model: Model, z: Array, t: Array, s: Array
) -> Array:
  """z_s ~ p(z_s | z_t), s < t scalars any distance apart. [b n] -> [b n].

  A code that was revealed may change again, as the chain has it.
  """
  log_probs = model.denoise(z, jnp.full(z.shape[:1], t))
  ends = prior.kernel(s), prior.kernel(t)
  return jax.random.categorical(key, transitions.posterior(*ends, log_probs, z))
