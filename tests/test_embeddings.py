"""Embeddings of codes: who has them, where they start, how they are shown."""

import embedded
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emoji16_lcmd_ablation
from vq_jax import pictures, weights
from vq_jax.nets.transformer import Net
from vq_jax.priors import absorbing, lcmd
from vq_jax.train import embeddings, optimizer

K, D = 6, 4


def net(**fields):
  return Net(vocab_size=K, grid=(2, 2), layers=1, width=8, heads=2, **fields)


def test_embeddings_need_a_prior_that_has_them():
  embeddings.check(net(code_dim=D), lcmd.Prior(K))
  embeddings.check(net(), absorbing.Prior(K))
  with pytest.raises(ValueError, match=r"lcmd needs a net with code_dim > 0"):
    embeddings.check(net(), lcmd.Prior(K))
  with pytest.raises(ValueError, match=r"is 4, but .*absorbing needs code_dim"):
    embeddings.check(net(code_dim=D), absorbing.Prior(K))


def test_a_codebook_takes_the_place_of_fresh_embeddings(tmp_path):
  """Scaled to unit mean square; MASK and all other weights stay fresh."""
  book = np.random.default_rng(0).normal(3.0, 2.0, (K, D)).astype(np.float32)
  part = {"quantizer": {"codebook": book}, "decoder": {"bias": np.ones(3)}}
  weights.save_part(tmp_path / "tokenizer", {"name": "vqgan"}, part)
  config = {"data": {"path": str(tmp_path)}, "codes": "tokenizer"}
  warm = embeddings.start(config, net(code_dim=D))
  fresh = {"net": {"codes": np.full((K + 1, D), 7.0), "head": 1.0}, "null": 2.0}
  codes = warm(fresh)["net"]["codes"]
  np.testing.assert_allclose(np.mean(codes[:-1] ** 2), 1.0, rtol=1e-5)
  ratio = codes[:-1] / book
  np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
  assert (codes[-1] == 7.0).all() and (fresh["net"]["codes"] == 7.0).all()
  assert warm(fresh)["net"]["head"] == 1.0 and warm(fresh)["null"] == 2.0
  assert embeddings.start(config | {"codes": "normal"}, net()) is None
  with pytest.raises(ValueError, match=r"codebook of \(6, 5\).* \(6, 4\)"):
    embeddings.start(config, net(code_dim=5))
  with pytest.raises(ValueError, match="Choices: normal, tokenizer"):
    embeddings.start(config | {"codes": "vqgan"}, net())


def test_the_pattern_of_the_ablation_freezes_embeddings_alone():
  """Weight decay included: a frozen codebook does not shrink."""
  only = emoji16_lcmd_ablation.FROZEN["optimizer.only"]
  params = {"net": {"codes": jnp.ones((3, 2)), "head": jnp.ones((2, 3))}}
  transform = optimizer.make_optimizer(9, lr=0.1, weight_decay=0.5, only=only)
  updates, _ = transform.update(
    params, transform.init(params), params, value=0.0
  )
  assert (updates["net"]["codes"] == 0).all()
  assert (updates["net"]["head"] < -0.1).all()


def test_a_tokenizer_without_a_codebook_has_nothing_to_start_from(tmp_path):
  weights.save_part(tmp_path / "tokenizer", {}, {"bias": np.ones(3)})
  config = {"data": {"path": str(tmp_path)}, "codes": "tokenizer"}
  with pytest.raises(ValueError, match="has none"):
    embeddings.start(config, net(code_dim=D))


def test_a_profile_is_that_of_the_exact_posterior(key):
  """Cross-entropy and entropy agree on average, and rise with the noise."""
  law = np.array([0.5, 0.2, 0.3])
  codes = 2.0 * jax.random.normal(key, (4, 2))
  prior = lcmd.Prior(3, shift=0.3)
  model = embedded.exact(prior, law, codes)
  run = embeddings.profile(prior, key, lambda params, batch: model)
  x = jnp.repeat(jnp.arange(3), jnp.array([500, 200, 300]))[:, None]
  batch = {"ids": x, "mask": jnp.ones(1000)}
  found = jax.jit(run)((), batch)
  ce, h = (
    np.array([found[f"{name}_t{t}"] for t in (10, 30, 50, 70, 90)])
    for name in ("cross_entropy", "entropy")
  )
  np.testing.assert_allclose(ce, h, atol=0.06)
  assert (np.diff(ce) > 0).all() and ce[0] < 0.5
  np.testing.assert_allclose(ce[-1], -np.sum(law * np.log(law)), atol=0.1)
  # What is padded does not count.
  half = {"ids": x, "mask": jnp.arange(1000) < 500}
  first = jax.jit(run)((), half)["cross_entropy_t90"]
  assert abs(first - np.log(2)) < 0.1  # Of the code with probability 1/2.


def test_collapsed_embeddings_are_black_and_orthogonal_ones_white():
  """In units of what unit variance would be, whatever the common offset."""
  square = lambda codes: pictures.distances(codes, 64)[-64:, :, 0]  # noqa: E731
  d = 8
  apart = square(np.sqrt(d) * np.eye(d)[:4])
  assert (apart == 255 * (1 - np.eye(4).repeat(16, 0).repeat(16, 1))).all()
  assert square(np.full((4, d), 5.0)).max() == 0
  assert square(1e-3 * np.eye(d)).max() == 0
  # The longest first: far from the others, which are close together.
  codes = np.array([[0.0, 0.1], [0.1, 0.0], [9.0, 9.0]])
  page = square(codes)
  assert page[0, -1] > 100 and page[-1, 40] < 10
