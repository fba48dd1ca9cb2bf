"""Keep / uniform / mask Markov chains over K codes and one mask symbol.

A step keeps a code with probability `keep`, replaces it by a uniformly drawn
code (which may be the same one) with probability `uniform`, and masks it with
probability `mask`; a mask stays a mask (arXiv:2111.14822, eq. 7, where
alpha = keep, K beta = uniform, gamma = mask). Absorbing diffusion is
uniform = 0, uniform D3PM (arXiv:2107.03006) is mask = 0.

`dense` is the definition, for tests; the other functions are its O(K) closed
forms, for use. Distributions over codes are in log space and sums of positive
terms; only `between` subtracts, numbers per step whose relative error is that
of float32 times the number of steps. A `Kernel` may hold scalars or one value
per example [b].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vq_jax.types import NEVER, Array, Key


class Kernel(NamedTuple):
  """Probabilities of one (possibly long) step; keep + uniform + mask = 1."""

  keep: Array
  uniform: Array
  mask: Array

  def wide(self, rank: int) -> "Kernel":
    """The same kernel with trailing axes, to broadcast against rank `rank`."""
    return Kernel(
      *(
        jnp.reshape(p, jnp.shape(p) + (1,) * (rank - jnp.ndim(p))) for p in self
      )
    )


def absorbing(masked: Array) -> Kernel:
  """The cumulative kernel that masks with that probability, else keeps."""
  return Kernel(1.0 - masked, jnp.zeros_like(masked), masked)


def between(s: Kernel, t: Kernel) -> Kernel:
  """The step from s to t of a chain with cumulative kernels s, t (s earlier).

  arXiv:2111.14822, section 4.1: a = abar_t / abar_s and
  1 - c = (1 - cbar_t) / (1 - cbar_s). A ratio 0/0 means that nothing is left
  to keep (or to mask); it is read as 0.
  """
  alive = s.keep + s.uniform
  # Not (1 - keep - mask): where the noise is one in a million, as in released
  # schedules, that difference of numbers near 1 is float32 rounding.
  uniform = t.uniform * s.keep - s.uniform * t.keep
  return Kernel(
    keep=_ratio(t.keep, s.keep),
    uniform=_ratio(jnp.maximum(uniform, 0.0), s.keep * alive),
    mask=_ratio(t.mask - s.mask, alive),
  )


def dense(kernel: Kernel, num_codes: int) -> Array:
  """The matrix [K + 1, K + 1] of a scalar kernel: from row to column.

  Rows sum to one. Index K is the mask.
  """
  codes = kernel.keep * jnp.eye(num_codes) + kernel.uniform / num_codes
  to_mask = jnp.full((num_codes, 1), kernel.mask)
  stay = jnp.zeros((1, num_codes + 1)).at[0, num_codes].set(1.0)
  return jnp.concatenate([jnp.concatenate([codes, to_mask], 1), stay], 0)


def marginal(kernel: Kernel, log_probs: Array) -> Array:
  """log q(z) = log sum_x q(z | x) p(x): log p [.. K] -> [.. K + 1]."""
  k = kernel.wide(log_probs.ndim)
  total = jax.nn.logsumexp(log_probs, -1, keepdims=True)
  codes = jnp.logaddexp(
    _log(k.keep) + log_probs, _log(k.uniform / log_probs.shape[-1]) + total
  )
  return jnp.concatenate([codes, _log(k.mask) + total], -1)


def corrupt(key: Key, kernel: Kernel, x: Array, num_codes: int) -> Array:
  """z ~ q(z | x): ids [b n] in 0..K-1 -> ids [b n] in 0..K."""
  key_move, key_code = jax.random.split(key)
  k = kernel.wide(x.ndim)
  u = jax.random.uniform(key_move, x.shape)
  code = jax.random.randint(key_code, x.shape, 0, num_codes)
  moved = jnp.where(u < k.mask + k.uniform, code, x)
  return jnp.where(u < k.mask, num_codes, moved)


def forward(key: Key, step: Kernel, z: Array, num_codes: int) -> Array:
  """z_t ~ q(z_t | z_s), z: ids [b n] in 0..K, for a step from `between`."""
  moved = corrupt(key, step, z, num_codes)
  return jnp.where(z == num_codes, z, moved)


def posterior(s: Kernel, t: Kernel, log_probs: Array, z: Array) -> Array:
  """log p(z_s | z_t) = log sum_x q(z_s | z_t, x) p(x | z_t), for any s < t.

  arXiv:2111.14822, eq. 5 and 11, with one-step factors replaced by those from s
  to t. A code x from which z_t cannot be reached (no uniform noise) gives
  no information, and z_t is kept.

  Args:
    s: cumulative kernel at the earlier time.
    t: cumulative kernel at the later time.
    log_probs: log p(x | z_t) [b n K], of any sum; the result has the same sum.
    z: z_t [b n], ids in 0..K.

  Returns:
    Logarithms [b n K + 1] over z_s, float32; impossible states are NEVER.
  """
  num_codes = log_probs.shape[-1]
  step = between(s, t).wide(log_probs.ndim)
  s, t = s.wide(log_probs.ndim), t.wide(log_probs.ndim)
  s_noise, noise = s.uniform / num_codes, step.uniform / num_codes
  masked = (z == num_codes)[..., None]
  is_z = jnp.arange(num_codes) == z[..., None]

  # From the mask every x is as likely as before: p(z_s = k) is the marginal
  # at s, times q(z_t = mask | z_s = k) / q(z_t = mask).
  total = jax.nn.logsumexp(log_probs, -1, keepdims=True)
  lifted = _log(_ratio(step.mask, t.mask))
  from_mask = lifted + _log(s.keep), lifted + _log(s_noise) + total

  # From a code j: Bayes' rule for x = j, and together for every other x.
  rest = jnp.where(is_z, NEVER, log_probs)
  rest = jax.nn.logsumexp(rest, -1, keepdims=True)
  log_j = jnp.max(jnp.where(is_z, log_probs, NEVER), -1, keepdims=True)
  here = t.keep + t.uniform / num_codes  # q(z_t = j | x = j)
  back = _log(_ratio(step.uniform, t.uniform))  # q(z_t=j | z_s) / q(z_t=j | x)
  other = jnp.logaddexp(
    back + _log(s_noise) + rest, _log(_ratio(noise * s_noise, here)) + log_j
  )
  from_code = back + _log(s.keep), other
  both = zip(from_mask, from_code, strict=True)
  scale, shift = (jnp.where(masked, a, b) for a, b in both)
  codes = jnp.logaddexp(scale + log_probs, shift)  # The one pass over K.

  stay = jnp.where(
    t.uniform > 0, (step.keep + noise) * _ratio(s.uniform, t.uniform), 1.0
  )
  stayed = jnp.logaddexp(
    _log(_ratio((step.keep + noise) * (s.keep + s_noise), here)) + log_j,
    _log(stay) + rest,
  )
  codes = jnp.where(is_z, stayed, codes)
  mask = jnp.where(masked, _log(_ratio(s.mask, t.mask)) + total, NEVER)
  return jnp.maximum(jnp.concatenate([codes, mask], -1), NEVER)


def _ratio(numerator: Array, denominator: Array) -> Array:
  """numerator / denominator, and 0 where the denominator is 0."""
  safe = jnp.where(denominator > 0, denominator, 1.0)
  return jnp.where(denominator > 0, numerator / safe, 0.0)


def _log(p: Array) -> Array:
  """The logarithm of a probability, finite at 0, where gradients are 0."""
  return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), NEVER)
