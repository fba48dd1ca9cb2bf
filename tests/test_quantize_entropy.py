"""The quantizer's entropy loss against its definition and its extremes."""

import jax
import numpy as np
import pytest

from vq_jax.tokenizer import quantize

K, D = 12, 5


@pytest.fixture
def codebook(key):
  return jax.random.normal(key, (K, D))


def test_entropy_gap_is_minus_the_mutual_information(key, codebook):
  """By its definition in float64, with whole squared distances."""
  latents = jax.random.normal(jax.random.fold_in(key, 2), (2, 3, D))
  z, e = (np.float64(a) for a in (latents.reshape(-1, D), codebook))
  scores = -np.square(z[:, None] - e).sum(-1) / 0.5
  p = np.exp(scores - scores.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  mean = p.mean(0)
  information = np.mean(np.sum(p * np.log(p / mean), 1))
  found = quantize.entropy_gap(latents, codebook, 0.5)
  np.testing.assert_allclose(found, -information, rtol=1e-4)
  module = quantize.Nearest(K, D, entropy=0.1, entropy_temperature=0.5)
  _, quantized, _, loss = module.apply(
    {"params": {"codebook": codebook}}, latents
  )
  plain = quantize.vq_loss(latents, quantized)
  np.testing.assert_allclose(loss - plain, -0.1 * information, rtol=1e-3)


def test_entropy_gap_is_least_where_every_code_is_used_as_often(codebook):
  """-ln K there, 0 where one code does all; finite slopes at either."""
  gap = jax.jit(jax.value_and_grad(quantize.entropy_gap), static_argnums=2)
  for latents, expected in ((codebook, -np.log(K)), (codebook[:1], 0.0)):
    value, slope = gap(latents, codebook, 0.01)
    np.testing.assert_allclose(value, expected, atol=1e-4)
    assert np.isfinite(slope).all()
