"""Codebook use, code lengths, and caption retrieval."""

import math

import numpy as np
import pytest

from vq_jax.metrics import bits, codebook, retrieval, unigram

K = 16


def test_codebook_of_equally_frequent_codes():
  """m codes used equally often: usage m / K, perplexity m."""
  ids = np.arange(12).reshape(3, 4) % 6
  state = codebook.update(codebook.init(K), {"ids": ids})
  result = codebook.compute(state)
  assert math.isclose(result["codebook_usage"], 6 / K)
  assert math.isclose(result["codebook_perplexity"], 6)


def test_perplexity_is_the_exponential_of_the_entropy():
  ids = np.array([[0, 0, 0, 1]])
  result = codebook.compute(codebook.update(codebook.init(2), {"ids": ids}))
  nats = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
  assert math.isclose(result["codebook_perplexity"], math.exp(nats))


@pytest.mark.parametrize("wrong", [-1, K])
@pytest.mark.parametrize(
  "state, update",
  [
    (codebook.init(K), codebook.update),
    (unigram.init(K, counts=np.ones(K)), unigram.update),
  ],
)
def test_ids_out_of_range(wrong, state, update):
  """The mask id K is no code."""
  with pytest.raises(ValueError, match=r"0\.\.15"):
    update(state, {"ids": np.array([[3, wrong]])})
  with pytest.raises(ValueError, match="integers"):
    update(state, {"ids": np.array([[3.0, 1.0]])})


def test_bits_and_their_standard_error():
  values = np.random.default_rng(0).normal(5, 2, size=37)
  state = bits.init()
  for part in np.split(values, [3, 4, 20]):
    state = bits.update(state, {"bits": part})
  result = bits.compute(state)
  assert math.isclose(result["bits_per_token"], values.mean())
  error = np.std(values, ddof=1) / math.sqrt(37)
  assert math.isclose(result["bits_per_token_stderr"], error)


def test_one_example_has_no_standard_error():
  result = bits.compute(bits.update(bits.init(), {"bits": np.array([4.0])}))
  assert result["bits_per_token"] == 4
  assert math.isnan(result["bits_per_token_stderr"])
  with pytest.raises(ValueError, match=r"\[b\]"):
    bits.update(bits.init(), {"bits": np.ones((2, 3))})


def bound(ids, **train):
  return unigram.compute(unigram.update(unigram.init(K, **train), {"ids": ids}))


def test_uniform_training_tokens_cost_log2_k():
  """Whatever the validation tokens are."""
  ids = np.random.default_rng(0).integers(3, size=(5, 7))
  result = bound(ids, train_ids=np.arange(4 * K).reshape(8, 8) % K)
  assert math.isclose(result["unigram_bits_per_token"], 4)
  assert result["uniform_bits_per_token"] == 4


def test_unigram_is_laplace_rule():
  """Direct sum over tokens; ids and their counts say the same."""
  rng = np.random.default_rng(1)
  train, ids = rng.integers(5, size=40), rng.integers(K, size=(6, 3))
  counts = np.array([np.sum(train == code) for code in range(K)])
  direct = np.mean([-math.log2((counts[i] + 1) / (40 + K)) for i in ids.flat])
  for result in (bound(ids, train_ids=train), bound(ids, counts=counts)):
    assert math.isclose(result["unigram_bits_per_token"], direct)


def test_unigram_takes_ids_or_counts():
  for wrong in ({}, {"train_ids": np.zeros(3, int), "counts": np.ones(K)}):
    with pytest.raises(ValueError, match="not both"):
      unigram.init(K, **wrong)
  with pytest.raises(ValueError, match=r"\[16\]"):
    unigram.init(K, counts=np.ones(K + 1))


def ranked(image, text):
  batch = {"image_embedding": image, "text_embedding": text}
  return retrieval.compute(retrieval.update(retrieval.init(), batch))


def test_an_oracle_ranks_first():
  """Cosine: lengths do not matter."""
  text = np.random.default_rng(0).normal(size=(30, 8))
  lengths = np.linspace(0.1, 9, 30)[:, None]
  assert set(ranked(text * lengths, text).values()) == {1.0}


def test_ranks_against_sorting(monkeypatch):
  """The rank is the place of the own caption in the sorted list."""
  monkeypatch.setattr(retrieval, "_ROWS", 7)
  rng = np.random.default_rng(2)
  text = rng.normal(size=(40, 5))
  image = text + rng.normal(size=(40, 5))
  ranks = []
  for i, x in enumerate(image):
    cosine = [x @ y / np.sqrt((x @ x) * (y @ y)) for y in text]
    ranks.append(1 + np.argsort(cosine)[::-1].tolist().index(i))
  result = ranked(image, text)
  assert result["retrieval_median_rank"] == np.median(ranks)
  expected = np.mean([1 / rank for rank in ranks])
  assert math.isclose(result["retrieval_mean_reciprocal_rank"], expected)
  assert result["retrieval_recall_at_1"] == np.mean([r == 1 for r in ranks])
  assert result["retrieval_recall_at_10"] == np.mean([r < 11 for r in ranks])


def test_a_collapsed_encoder_scores_like_chance():
  """All similarities equal: the mean rank of 1..n, no caption found."""
  result = ranked(np.ones((31, 4)), np.ones((31, 4)))
  assert result["retrieval_median_rank"] == 16
  assert result["retrieval_recall_at_10"] == 0


def test_embeddings_need_a_direction_and_a_partner():
  with pytest.raises(ValueError, match="zero row"):
    ranked(np.zeros((3, 4)), np.ones((3, 4)))
  with pytest.raises(ValueError, match="differ"):
    ranked(np.ones((3, 4)), np.ones((3, 5)))
