"""Autoregressive sampling: one token after the other, in raster order."""

from typing import Any

import jax
import jax.numpy as jnp

from vq_jax.samplers import _reveal
from vq_jax.samplers._run import Run, only
from vq_jax.types import Array, Cached, Key, Model

NEEDS = ("causal", "vocab_size")


def run(
  key: Key,
  model: Model,
  prior: Any,
  shape: tuple[int, int],
  *,
  known: Array | None = None,
) -> Run:
  """Draws x_i ~ p(x_i | x_<i) for i = 0..n-1 (arXiv:2111.12701, eq. 1).

  n steps: each is the work of one token if the model has a cache, and else a
  call of the network for the whole grid; the draws are the same. Guidance that
  depends on time sees the share of tokens from i on, 1 - i / n.

  Args:
    key: one key for the whole batch.
    model: causal.
    prior: has what is in `NEEDS`.
    shape: (b, n).
    known: ids [b n] that must not change, with `prior.vocab_size` where free.
      A free token heeds the known ones in front of it, not those behind.

  Returns:
    ids [b n] in 0..K-1 from `sample`, states [n + 1, b n] from `trajectory`,
    with K where nothing is drawn yet.
  """
  b, n = shape
  cached = model.cached or recomputed(model, n)

  def step(carry: tuple[Array, Array, Any], inputs: tuple[Key, Array]):
    z, token, cache = carry
    key, i = inputs
    t = jnp.full(b, 1.0 - i / n)
    log_probs, cache = cached.step(cache, token, i, t)
    drawn = jax.random.categorical(key, log_probs)
    token = jnp.where(z[:, i] == prior.vocab_size, drawn, z[:, i])
    z = z.at[:, i].set(token)
    return (z, token, cache), z

  start = _reveal.masks(prior, shape, known)
  carry = (start, jnp.zeros(b, jnp.int32), cached.start(b))
  inputs = (jax.random.split(key, n), jnp.arange(n))
  (z, _, _), states = jax.lax.scan(step, carry, inputs)
  return Run(z, jnp.concatenate([start[None], states]))


def recomputed(model: Model, n: int) -> Cached:
  """What a cache would say, by n tokens' work a step; it keeps the ids."""

  def start(b: int) -> Array:
    return jnp.zeros((b, n), jnp.int32)

  def step(z: Array, token: Array, i: Array, t: Array) -> tuple[Array, Array]:
    # At i = 0 this is the last place, which no position looks at.
    z = z.at[:, i - 1].set(token)
    return model.denoise(z, t)[:, i], z

  return Cached(start, step)


sample = only("ids", run)
trajectory = only("states", run)
