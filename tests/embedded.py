"""Independent tokens with a known law, embedded, and their exact denoiser."""

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.types import Model


def levels(log_snr):
  """alpha, sigma in float64."""
  snr = np.exp(np.asarray(log_snr, np.float64))
  return np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr))


def exact(prior, law, codes):
  """log p(x | z_t) by Bayes' rule: law [K], codes [K + 1 d]."""
  law, codes = jnp.asarray(law, jnp.float32), jnp.asarray(codes, jnp.float32)

  def denoise(z, t):
    log_snr = prior.log_snr(t)[:, None, None]
    alpha = jnp.sqrt(jax.nn.sigmoid(log_snr))
    far = jnp.sum((z[:, :, None] - alpha[..., None] * codes[:-1]) ** 2, -1)
    sigma2 = jax.nn.sigmoid(-log_snr)
    return jax.nn.log_softmax(jnp.log(law) - 0.5 * far / sigma2)

  return Model(denoise, codes)


def oracle(x, codes):
  """Knows x."""
  k = len(codes) - 1
  return Model(lambda z, t: 1e6 * (jax.nn.one_hot(x, k) - 1.0), codes)
