"""Keep / uniform / mask Markov chains over K codes and one mask symbol.

A step keeps a code with probability `keep`, replaces it by a uniformly drawn
code (which may be the same one) with probability `uniform`, and masks it with
probability `mask`; a mask stays a mask (arXiv:2111.14822, eq. 7, where
alpha = keep, K beta = uniform, gamma = mask). Absorbing diffusion is
uniform = 0, uniform D3PM (arXiv:2107.03006) is mask = 0.

`dense` is the definition, for tests; the other functions are its O(K) closed
forms, for use. A `Kernel` may hold scalars or one value per example [b].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vq_jax.types import Array, Key


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


def marginal(kernel: Kernel, probs: Array) -> Array:
  """q(z) = sum_x q(z | x) p(x) over clean codes: [.. K] -> [.. K + 1]."""
  k = kernel.wide(probs.ndim)
  total = jnp.sum(probs, -1, keepdims=True)
  codes = k.keep * probs + k.uniform / probs.shape[-1] * total
  return jnp.concatenate([codes, k.mask * total], -1)


def corrupt(key: Key, kernel: Kernel, x: Array, num_codes: int) -> Array:
  """z ~ q(z | x): ids [b n] in 0..K-1 -> ids [b n] in 0..K."""
  key_move, key_code = jax.random.split(key)
  k = kernel.wide(x.ndim)
  u = jax.random.uniform(key_move, x.shape)
  code = jax.random.randint(key_code, x.shape, 0, num_codes)
  moved = jnp.where(u < k.mask + k.uniform, code, x)
  return jnp.where(u < k.mask, num_codes, moved)


def posterior(s: Kernel, t: Kernel, probs: Array, z: Array) -> Array:
  """p(z_s | z_t) = sum_x q(z_s | z_t, x) p(x | z_t), for any s < t.

  arXiv:2111.14822, eq. 5 and 11, with one-step factors replaced by those from s
  to t. A code x from which z_t cannot be reached (no uniform noise) gives
  no information, and z_t is kept.

  Args:
    s: cumulative kernel at the earlier time.
    t: cumulative kernel at the later time.
    probs: p(x | z_t) [b n K], of any sum; the result has the same sum.
    z: z_t [b n], ids in 0..K.

  Returns:
    Probabilities [b n K + 1] over z_s, float32.
  """
  num_codes = probs.shape[-1]
  step = between(s, t).wide(probs.ndim)
  s, t = s.wide(probs.ndim), t.wide(probs.ndim)
  total = jnp.sum(probs, -1, keepdims=True)

  masked = jnp.concatenate(
    [
      _ratio(step.mask, t.mask)
      * (s.keep * probs + s.uniform / num_codes * total),
      _ratio(s.mask, t.mask) * total,
    ],
    -1,
  )

  # z_t is a code j. Bayes' rule for x = j, then for every other x.
  noise = step.uniform / num_codes
  here = t.keep + t.uniform / num_codes  # q(z_t = j | x = j)
  back = _ratio(
    step.uniform, t.uniform
  )  # q(z_t = j | z_s != j) / q(.. | x != j)
  j = jax.nn.one_hot(z, num_codes)
  p_j = jnp.sum(j * probs, -1, keepdims=True)
  s_noise = s.uniform / num_codes
  moved = back * (
    s.keep * probs + s_noise * (total - p_j)
  ) + p_j * noise * _ratio(s_noise, here)
  from_here = _ratio((step.keep + noise) * (s.keep + s_noise), here)
  stay = 1.0 - back * (s.keep + (num_codes - 1) * s_noise)
  stayed = p_j * from_here + (total - p_j) * stay
  codes = jnp.where(j > 0, stayed, moved)
  unmasked = jnp.concatenate([codes, jnp.zeros_like(total)], -1)
  return jnp.where((z == num_codes)[..., None], masked, unmasked)


def _ratio(numerator: Array, denominator: Array) -> Array:
  """numerator / denominator, and 0 where the denominator is 0."""
  safe = jnp.where(denominator > 0, denominator, 1.0)
  return jnp.where(denominator > 0, numerator / safe, 0.0)
