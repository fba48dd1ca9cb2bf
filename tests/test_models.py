"""Model -> Model: temperature, truncation, guidance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import models
from vq_jax.types import Model

LOG_PROBS = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (2, 3, 6)))
Z, T = jnp.zeros((2, 3), jnp.int32), jnp.zeros(2)


def constant(log_probs=LOG_PROBS):
  return Model(lambda z, t: log_probs)


def probs(model):
  return np.asarray(jax.nn.softmax(model.denoise(Z, T)))


def test_temperature_is_a_power_of_the_probabilities():
  plain = probs(constant()) ** 2.0
  found = probs(models.temper(constant(), 0.5))
  np.testing.assert_allclose(found, plain / plain.sum(-1, keepdims=True), 1e-5)


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9])
def test_nucleus_is_the_smallest_set_with_that_mass(top_p):
  plain, found = (
    probs(constant()),
    probs(models.truncate(constant(), top_p=top_p)),
  )
  for p, q in zip(plain.reshape(-1, 6), found.reshape(-1, 6), strict=True):
    ranked = np.sort(p)[::-1]
    size = 1 + int(np.sum(np.cumsum(ranked) < top_p))
    kept = p >= ranked[size - 1]
    np.testing.assert_allclose(q, kept * p / p[kept].sum(), rtol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 6, 99])
def test_top_k_keeps_k(top_k):
  found = probs(models.truncate(constant(), top_k=top_k))
  assert ((found > 0).sum(-1) == min(top_k, 6)).all()


def test_whole_nucleus_and_unit_temperature_change_nothing():
  model = constant()
  assert models.truncate(model, top_p=1.0) is model
  assert models.temper(model, 1.0) is model


def test_guidance_is_the_papers_formula_in_one_call():
  calls = []
  given, free = jax.random.normal(jax.random.key(1), (2, 2, 3, 6))

  def denoise(z, t):
    calls.append(z.shape)
    return jax.nn.log_softmax(jnp.concatenate([given, free]))

  found = probs(models.guide(Model(denoise), 1.5))
  lc, lu = (np.log(jax.nn.softmax(x)) for x in (given, free))
  expected = np.exp(lu + 2.5 * (lc - lu))
  expected /= expected.sum(-1, keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=2e-5)
  assert calls == [(4, 3)]


def test_guidance_zero_is_the_conditional_model():
  pair = jnp.concatenate([LOG_PROBS, LOG_PROBS[:, ::-1]])
  found = probs(models.guide(Model(lambda z, t: pair), 0.0))
  np.testing.assert_allclose(found, probs(constant()), rtol=1e-5)


@pytest.mark.parametrize("ramp", models.RAMPS)
def test_guidance_grows_to_its_scale_within_its_interval(ramp):
  """The scale that a fixed guide would need, at every time."""
  pair = jnp.concatenate([LOG_PROBS, LOG_PROBS[:, ::-1]])
  model = Model(lambda z, t: pair)
  grown = {
    "constant": 1.0,
    "linear": 0.6,
    "cosine": 0.5 + math.cos(0.4 * math.pi) / 2,
  }
  for time, share in ((0.4, grown[ramp]), (0.1, 0.0), (0.9, 0.0)):
    guided = models.guide(model, 2.0, interval=(0.2, 0.8), ramp=ramp)
    fixed = models.guide(model, 2.0 * share)
    t = jnp.full(2, time)
    np.testing.assert_allclose(
      guided.denoise(Z, t), fixed.denoise(Z, t), rtol=1e-5
    )


@pytest.mark.parametrize(
  ("change", "options", "message"),
  [
    (models.guide, {"scale": 1.0, "ramp": "linaer"}, "'linear'"),
    (models.guide, {"scale": 1.0, "interval": (0.5, 0.5)}, "two times"),
    (models.temper, {"temperature": 0.0}, "must be positive"),
    (models.truncate, {"top_p": 0.0}, "top_p"),
    (models.truncate, {"top_p": 1.1}, "top_p"),
    (models.truncate, {"top_k": 0}, "top_k"),
  ],
)
def test_impossible_options_are_refused(change, options, message):
  with pytest.raises(ValueError, match=message):
    change(constant(), **options)
