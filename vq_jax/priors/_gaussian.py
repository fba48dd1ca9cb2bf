"""A Gaussian chain of unit variance, told by log SNR: what noise does to z.

q(z_t | x) = N(alpha_t e, sigma_t^2), alpha_t^2 + sigma_t^2 = 1, for the
embedding e of x, and log SNR = ln(alpha^2 / sigma^2) falls from t = 0 to t = 1.
Log SNRs are scalars or [b], states [b n d].
"""

import jax
import jax.numpy as jnp

from vq_jax.types import Array


def levels(log_snr: Array) -> tuple[Array, Array]:
  """(alpha, sigma), each with full precision, near 0 and near 1."""
  return (
    jnp.sqrt(jax.nn.sigmoid(log_snr)),
    jnp.sqrt(jax.nn.sigmoid(-log_snr)),
  )


def noisy(clean: Array, noise: Array, log_snr: Array) -> Array:
  """alpha e + sigma noise: a draw of q(z_t | x) if the noise is N(0, 1)."""
  alpha, sigma = levels(_column(log_snr))
  return alpha * clean + sigma * noise


def renewed(now: Array, then: Array) -> Array:
  """The share of noise variance that a step of the chain draws anew.

  It is sigma_{t|s}^2 / sigma_t^2 = 1 - SNR_t / SNR_s in the words of VDM
  (arXiv:2107.00630), between log SNRs `now` at t and `then` at s < t.
  """
  return -jnp.expm1(now - then)


def move(
  z: Array,
  clean: Array,
  now: Array,
  then: Array,
  fresh: Array | float = 0.0,
  eta: float = 0.0,
) -> Array:
  """z_s of less noise out of z_t, as if `clean` were the embedding.

  The noise that `clean` leaves in z_t, (z_t - alpha_t e) / sigma_t, is kept but
  for a share of its variance. eta = 0 keeps all of it: one step of DDIM
  (arXiv:2010.02502, eq. 12), which is Euler's method for the flow ODE. eta = 1
  draws the posterior q(z_s | z_t, x).

  Args:
    z: state at t [b n d].
    clean: the embedding, or what is expected of it [b n d].
    now: log SNR at t.
    then: log SNR at s <= t, not below `now`.
    fresh: standard normal noise [b n d], which eta = 0 does not use.
    eta: from 0 to 1.

  Returns:
    State at s [b n d].
  """
  now, then = _column(now), _column(then)
  alpha, sigma = levels(now)
  share = eta**2 * renewed(now, then)
  noise = (z - alpha * clean) / sigma
  noise = jnp.sqrt(1.0 - share) * noise + jnp.sqrt(share) * fresh
  alpha, sigma = levels(then)
  return alpha * clean + sigma * noise


def forget(z: Array, fresh: Array, then: Array, now: Array) -> Array:
  """z_t ~ q(z_t | z_s), more noise: the step of the chain from s to t > s."""
  then, now = _column(then), _column(now)
  alpha = levels(now)[0] / levels(then)[0]
  # sigma_{t|s}^2 = sigma_t^2 (1 - SNR_t / SNR_s).
  return alpha * z + levels(now)[1] * jnp.sqrt(renewed(now, then)) * fresh


def start_nats(clean: Array, log_snr: Array) -> Array:
  """KL(q(z_t | x) || N(0, 1)) [b n d] -> [b n]: what t = 1 still tells of x."""
  power = jax.nn.sigmoid(_column(log_snr))  # alpha^2
  return 0.5 * jnp.sum(power * clean**2 - power - jnp.log1p(-power), -1)


def log_density(z: Array, codes: Array, log_snr: Array) -> Array:
  """log q(z_t | k) up to what all k share: [b n d], codes [K d] -> [b n K]."""
  alpha, sigma = levels(_column(log_snr))
  # Sums of hundreds of terms, of which differences count: not in bfloat16.
  near = jnp.matmul(z, codes.T, precision=jax.lax.Precision.HIGHEST)
  return (alpha * near - 0.5 * alpha**2 * jnp.sum(codes**2, -1)) / sigma**2


def _column(level: Array) -> Array:
  """[] or [b] -> against [b n d]."""
  return jnp.reshape(level, (*jnp.shape(level), 1, 1))
