"""Quantizers without a codebook, and the contract of all quantizers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import pipeline
from vq_jax.tokenizer import fsq, lfq, vqgan

LEVELS = (4, 5, 2)
K, D = 40, 3
SIZES = {"fsq": (K, D, {"levels": LEVELS}), "lfq": (8, D, {})}


def quantizer(name, **options):
  k, d, own = SIZES.get(name, (7, D, {}))
  return vqgan.make_quantizer(name, k, d, {**own, **options})


@pytest.mark.parametrize("name", vqgan.QUANTIZERS)
def test_every_quantizer_keeps_the_contract(key, name):
  """Ids and codes are one another's names; the encoder gets a slope."""
  module = quantizer(name)
  latents = jax.random.normal(key, (2, 3, 5, D))
  variables = module.init(key, latents)
  found = jax.jit(module.apply)(variables, latents)
  assert found.through.dtype == found.quantized.dtype == jnp.float32
  assert found.ids.dtype == jnp.int32
  assert found.ids.shape == (2, 3, 5)
  assert found.ids.min() >= 0
  assert found.ids.max() < module.vocab_size
  np.testing.assert_allclose(found.through, found.quantized, atol=1e-6)
  looked_up = module.apply(variables, found.ids, method="lookup")
  np.testing.assert_array_equal(looked_up, found.quantized)
  beyond = jnp.array([module.vocab_size])
  assert np.isnan(module.apply(variables, beyond, method="lookup")).all()
  assert found.loss is None or found.loss.shape == ()

  def through(latents):
    options = {"train": True, "temperature": 0.9, "rngs": {"gumbel": key}}
    return module.apply(variables, latents, **options).through.sum()

  assert np.abs(jax.jit(jax.grad(through))(latents)).max() > 0.0


def test_a_config_names_a_quantizer_and_its_options():
  section = dict(
    name="vqgan",
    image_size=8,
    channels=2,
    multipliers=(1, 1),
    attention=(),
    groups=1,
    latent_dim=4,
    vocab_size=K,
    code_dim=D,
    quantizer="fsq",
    quantizer_options={"levels": list(LEVELS)},  # As JSON has them.
  )
  key = jax.random.key(0)
  init = lambda s: jax.eval_shape(  # noqa: E731
    lambda: pipeline.init_tokenizer(pipeline.build_tokenizer(s), key)
  )
  assert "quantize" not in init(section)
  for change, sentence in [
    ({"quantizer_options": {}}, r"quantizer_options needs the key 'levels'"),
    ({"quantizer_options": {"level": (3,)}}, r"Did you mean 'levels'"),
    ({"vocab_size": 41}, r"\(4, 5, 2\) has vocab_size = 40 .* says 41 and 3"),
    (
      {"quantizer": "lfq", "quantizer_options": {}},
      r"code_dim = 3 has vocab_size = 8; config.tokenizer says 40",
    ),
    ({"quantizer_options": {"levels": (40, 1, 1)}}, "levels of 2 or more"),
  ]:
    with pytest.raises(ValueError, match=sentence):
      init({**section, **change})


def test_fsq_is_the_published_example():
  """(0.25, 0.6, -7) at levels (3, 5, 4): digits 1, 3, 0 (released notebook)."""
  module = fsq.FSQ(60, 3, (3, 5, 4))
  found = module.apply({}, jnp.array([0.25, 0.6, -7.0]))
  np.testing.assert_allclose(found.through, [0.0, 0.5, -1.0], atol=1e-6)
  assert found.ids == 1 + 3 * 3 + 15 * 0
  assert found.loss == 0.0


def test_fsq_ids_are_mixed_radix_and_all_within_reach():
  """Levels from an enumeration; a latent for each by inverting the bound."""
  digits = np.stack(np.unravel_index(np.arange(K), LEVELS, order="F"), -1)
  count = np.array(LEVELS)
  codes = (digits - count // 2) / (count // 2)
  module = quantizer("fsq")
  found = module.apply({}, jnp.arange(K), method="lookup")
  np.testing.assert_allclose(found, codes, rtol=1e-6)
  assert codes.min() == -1.0 and codes.max() <= 1.0
  half = (count - 1) * 0.999 / 2
  offset = np.where(count % 2, 0.0, 0.5)
  inner = np.clip((digits - count // 2 + offset) / half, -0.999, 0.999)
  latents = np.arctanh(inner) - np.tan(offset / half)
  np.testing.assert_array_equal(module.apply({}, latents).ids, np.arange(K))


def test_fsq_saturates_at_its_levels_and_keeps_zero():
  module = quantizer("fsq")
  ends = module.apply({}, jnp.array([[-60.0], [60.0]]) * jnp.ones(D)).ids
  np.testing.assert_array_equal(ends, [0, K - 1])
  middle = module.apply({}, jnp.zeros(D)).quantized
  # Two levels lie on either side of zero.
  np.testing.assert_array_equal(middle[:2], [0.0, 0.0])


def test_fsq_slope_is_that_of_the_bound(key):
  z = jax.random.normal(key, (6, D))
  count = np.array(LEVELS)
  half = (count - 1) * 0.999 / 2
  shift = np.tan(np.where(count % 2, 0.0, 0.5) / half)
  slope = half * (1 - np.tanh(np.float64(z) + shift) ** 2) / (count // 2)
  through = lambda z: quantizer("fsq").apply({}, z).through.sum()  # noqa: E731
  np.testing.assert_allclose(jax.grad(through)(z), slope, rtol=1e-4, atol=1e-6)


def corners(d):
  """Code k has bit i of k as number i."""
  return np.array(
    [[2.0 * (k >> i & 1) - 1 for i in range(d)] for k in range(2**d)]
  )


def entropies(z, temperature):
  """(mean of entropies, entropy of the mean) by softmax over all corners."""
  z = np.asarray(z, np.float64)
  distances = np.square(z[:, None] - corners(z.shape[1])).sum(-1)
  p = np.exp(-distances / temperature)
  p /= p.sum(-1, keepdims=True)
  h = lambda p: -(p * np.log(p)).sum(-1)  # noqa: E731
  return h(p).mean(), h(p.mean(0))


def test_lfq_loss_is_that_of_a_softmax_over_all_codes(key):
  z = jax.random.normal(key, (20, D))
  module = quantizer("lfq", entropy=0.3, commitment=0.7)
  found = jax.jit(lambda z: module.apply({}, z, temperature=1.5))(z)
  each, together = entropies(z, 1.5)
  distances = np.square(np.asarray(z)[:, None] - corners(D)).sum(-1)
  np.testing.assert_array_equal(found.ids, distances.argmin(-1))
  np.testing.assert_array_equal(found.quantized, corners(D)[found.ids])
  commitment = distances.min(-1).mean() / D
  expected = 0.3 * (each - together) + 0.7 * commitment
  np.testing.assert_allclose(found.loss, expected, rtol=1e-5)


def test_lfq_zero_is_minus_one():
  assert quantizer("lfq").apply({}, jnp.zeros((1, D))).ids[0] == 0


def test_entropy_of_groups_of_bits_bounds_that_of_all(key):
  """Equal if the bits are independent; twice too much if they are copies."""
  z = jax.random.normal(key, (9, 4))
  batch_entropy = jax.jit(lfq.batch_entropy, static_argnums=1)
  exact = batch_entropy(4.0 * z, 4)
  np.testing.assert_allclose(exact, entropies(z, 1.0)[1], rtol=1e-5)
  bounds = [float(batch_entropy(4.0 * z, j)) for j in (4, 2, 1)]
  assert bounds[0] < bounds[1] < bounds[2] <= 4 * np.log(2)
  grid = jnp.array(list(itertools.product([-0.5, 0.1, 0.3], repeat=4)))
  alone, joint = (batch_entropy(4.0 * grid, j) for j in (1, 4))
  np.testing.assert_allclose(alone, joint, rtol=1e-5)
  copies = jnp.array([[50.0, 50.0], [-50.0, -50.0]])
  np.testing.assert_allclose(batch_entropy(copies, 2), np.log(2), 1e-5)
  np.testing.assert_allclose(batch_entropy(copies, 1), np.log(4), 1e-5)


def test_lfq_of_2_18_codes_never_writes_them_down():
  module = lfq.LFQ(2**18, 18)
  z = jnp.zeros((4, 18))
  program = jax.make_jaxpr(lambda z: module.apply({}, z))(z)
  assert "262144" not in str(program)
  dense = jax.make_jaxpr(lambda z: lfq.batch_entropy(z, 18))(z)
  assert "262144" in str(dense)


def test_lfq_slopes_are_finite_for_latents_of_any_size():
  z = jnp.array([[300.0, -300.0, 0.0], [300.0, 1e-3, -2.0]])
  loss = lambda z: quantizer("lfq").apply({}, z, temperature=0.01).loss  # noqa: E731
  assert np.isfinite(jax.jit(jax.grad(loss))(z)).all()
