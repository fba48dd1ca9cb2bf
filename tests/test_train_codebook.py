"""What training does to a codebook, on tokenizers that need no compilation."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax.tokenizer import _ema, quantize, vqgan
from vq_jax.train import codebook

K, D = 5, 2
COLOURS = np.array([[0, 0], [255, 0], [0, 255], [255, 255], [51, 102]])


def tokenizer(quantizer, **fields):
  return vqgan.Tokenizer(
    vocab_size=K, code_dim=D, quantizer=quantizer, **fields
  )


def weights(table):
  return {"encoder": 7.0, "quantize": {"codebook": table}}


@pytest.fixture
def step(key):
  """(book, weights before, after, average, codes): codes 3 and 4 are idle."""
  tables = jax.random.normal(key, (3, K, D))
  latents = 2.0 + jax.random.normal(jax.random.fold_in(key, 1), (2, 2, 2, D))
  ids = jnp.array([[0, 1, 2, 0], [0, 0, 1, 1]])
  book = codebook.CodebookState(
    jnp.array([0, 0, 0, 4, 8]), jnp.arange(1.0, K + 1)
  )
  codes = vqgan.Codes(latents, latents, ids)
  return (book, *map(weights, tables), codes)


def test_codes_follow_latents_from_where_they_were(key, step):
  """Not from where the optimizer, which may decay weights, has put them."""
  book, old, after, ema, codes = step
  codebook_step = codebook.make_codebook_step(
    tokenizer("ema", quantizer_options={"decay": 0.7}), 0
  )
  params, average, new, metrics = codebook_step(key, *step)
  table, counts = _ema.update(
    old["quantize"]["codebook"],
    book.counts,
    codes.latents,
    codes.ids,
    decay=0.7,
  )
  np.testing.assert_array_equal(params["quantize"]["codebook"], table)
  np.testing.assert_array_equal(new.counts, counts)
  assert params["encoder"] == after["encoder"]
  assert average is ema and not metrics


@pytest.mark.parametrize("name", ["nearest", "ema"])
def test_a_revived_code_counts_once_and_its_average_starts_over(
  key, step, name
):
  """After five idle steps: code 4 for longer, code 3 as of now."""
  *_, ema, codes = step
  kept = codebook.make_codebook_step(tokenizer(name), 0)(key, *step)
  params, average, new, metrics = codebook.make_codebook_step(
    tokenizer(name), 5
  )(key, *step)
  assert metrics["revived_codes"] == 2
  np.testing.assert_array_equal(new.idle, np.zeros(K))
  table, before = (p["quantize"]["codebook"] for p in (params, kept[0]))
  np.testing.assert_array_equal(table[:3], before[:3])
  pool = {tuple(z) for z in np.asarray(codes.latents).reshape(-1, D)}
  assert {tuple(e) for e in np.asarray(table[3:])} <= pool
  np.testing.assert_array_equal(new.counts[3:], [1.0, 1.0])
  np.testing.assert_array_equal(new.counts[:3], kept[2].counts[:3])
  old = ema["quantize"]["codebook"]
  expected = np.concatenate([old[:3], table[3:]])
  np.testing.assert_array_equal(average["quantize"]["codebook"], expected)


def test_the_gradient_alone_moves_nearest_codes_and_there_may_be_none(
  key, step
):
  _, _, after, ema, codes = step
  params, average, *_ = codebook.make_codebook_step(tokenizer("nearest"), 0)(
    key, *step
  )
  table = params["quantize"]["codebook"]
  np.testing.assert_array_equal(table, after["quantize"]["codebook"])
  assert average is ema
  bare = {"encoder": 7.0}
  for name in ("fsq", "lfq", "gumbel"):
    assert codebook.start(tokenizer(name)) == ()
    step = codebook.make_codebook_step(tokenizer(name), 0)
    assert step(key, (), bare, bare, bare, codes) == (bare, bare, (), {})


def test_what_a_quantizer_cannot_be_trained_with_is_refused():
  codebook.check(tokenizer("ema"), {"revive_after": 9, "kmeans": {"images": 8}})
  codebook.check(tokenizer("fsq"), {"revive_after": 0})
  with pytest.raises(ValueError, match=r"revive_after = 9 .*'fsq'.* to 0"):
    codebook.check(tokenizer("fsq"), {"revive_after": 9})
  misspelt = {"revive_after": 0, "kmeans": {"image": 8}}
  with pytest.raises(ValueError, match=r'config\.kmeans .*"?image.*images'):
    codebook.check(tokenizer("nearest"), misspelt)
  with pytest.raises(ValueError, match=r"kmeans\.images = 8 .*'lfq'"):
    codebook.check(
      tokenizer("lfq"), {"revive_after": 0, "kmeans": {"images": 8}}
    )
  with pytest.raises(ValueError, match="kept_codes to 0"):
    codebook.check(tokenizer("nearest", kept_codes=3), {"revive_after": 0})


@pytest.fixture
def eyes():
  """A tokenizer whose latents are colours, and images of five of them."""

  def apply(variables, images, method=None):
    latents = images[:, ::2, ::2]
    if method == "encode":
      ids = quantize.nearest(
        latents, variables["params"]["quantize"]["codebook"]
      )
      return ids.reshape(len(ids), -1)
    return images, vqgan.Codes(latents, latents, None)

  source = [
    {"image": np.full((4, 4, D), COLOURS[i % 5], np.uint8)} for i in range(13)
  ]
  stub = types.SimpleNamespace(
    quantizer="ema", vocab_size=K, code_dim=D, apply=apply
  )
  config = {
    "seed": 3,
    "evaluate": {"batch": 4, "limit": 9},
    "kmeans": {"images": 13, "iterations": 2},
  }
  return stub, config, source


def test_kmeans_starts_codes_on_what_the_encoder_says(eyes):
  stub, config, source = eyes
  warm = codebook.kmeans_start(stub, config, source)
  params = warm(weights(np.zeros((K, D), np.float32)))
  assert params["encoder"] == 7.0
  table = params["quantize"]["codebook"]
  found = {tuple(e) for e in np.round(127.5 * (table + 1.0)).astype(int)}
  assert found == {tuple(e) for e in COLOURS}
  assert codebook.kmeans_start(stub, {**config, "kmeans": {}}, source) is None
  few = {**config, "kmeans": {"images": 1}}
  with pytest.raises(ValueError, match="there are 4 for 5"):
    codebook.kmeans_start(stub, few, source)(params)


def test_the_picture_counts_every_image_up_to_the_limit_once(eyes, monkeypatch):
  """Nine images in batches of four: the last is padded."""
  stub, config, source = eyes
  monkeypatch.setattr(codebook.pictures, "histogram", lambda counts: counts)
  params = weights(jnp.float32(COLOURS / 127.5 - 1.0))
  counts = codebook.picture(stub, config, source, params)
  np.testing.assert_array_equal(counts, 4 * np.array([2, 2, 2, 2, 1]))
