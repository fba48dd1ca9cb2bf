"""Attention: both forms against the definition."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax.ops.attention import attend, plain


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("causal", [False, True])
def test_attend_is_softmax_attention(backend, causal):
  """Both forms against float64 loops; queries and keys differ in number."""
  rng = np.random.default_rng(0)
  m = 4 if causal else 6
  q, k, v = (rng.normal(size=(2, n, 3, 5)) for n in (4, m, m))
  expected = np.zeros((2, 4, 3, 5))
  for b, i, a in np.ndindex(2, 4, 3):
    last = i + 1 if causal else m
    weight = np.exp(k[b, :last, a] @ q[b, i, a] / math.sqrt(5))
    expected[b, i, a] = weight @ v[b, :last, a] / weight.sum()
  inputs = [x.astype(np.float32) for x in (q, k, v)]
  run = jax.jit(functools.partial(attend, causal=causal, backend=backend))
  out = run(*inputs)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
  half = run(*(x.astype(jnp.bfloat16) for x in inputs))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(half, float), expected, atol=0.05)


def test_dropped_attention_is_right_on_average():
  """The output is linear in the weights, so its mean is the plain output."""
  q, k, v = np.random.default_rng(0).normal(size=(3, 1, 2, 1, 4))

  def draw(key):
    def keep(w):
      return w * 2.0 * jax.random.bernoulli(key, 0.5, w.shape)

    return attend(q, k, v, drop=keep, backend="gpu")

  @jax.jit
  def average(key):
    return jax.vmap(draw)(jax.random.split(key, 20_000)).mean(0)

  np.testing.assert_allclose(
    average(jax.random.key(1)), plain(q, k, v), atol=0.05
  )
