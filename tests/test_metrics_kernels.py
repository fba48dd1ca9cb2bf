"""KID, CMMD, inception score, CLIP score, LPIPS.

Golden numbers: KID and inception score of torch-fidelity on the features and
logits stored in golden/metrics_*.npz.
"""

import math
import pathlib

import numpy as np
import pytest

from vq_jax.metrics import clip_score, cmmd, inception_score, kid, lpips

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = [
  ("metrics_200x64", {"subsets": 7, "subset_size": 50}, {"splits": 4}),
  ("metrics_500x16", {"subsets": 10, "subset_size": 100}, {"splits": 10}),
]


def score(metric, batch, **options):
  return metric.compute(metric.update(metric.init(**options), batch))


@pytest.mark.parametrize("case, subsets, splits", CASES)
def test_golden(case, subsets, splits):
  golden = np.load(GOLDEN / f"{case}.npz")
  state = kid.init(**subsets)
  for side in ("real", "fake"):
    state = kid.update(state, {f"{side}_features": golden[side]})
  found = kid.compute(state)
  found |= score(inception_score, {"fake_logits": golden["logits"]}, **splits)
  expected = {
    "kid": golden["kid_mean_f64"],
    "kid_std": golden["kid_std_f64"],
    "inception_score": golden["isc_mean"],
    "inception_score_std": golden["isc_std"],
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_kid_of_whole_sets_is_the_double_loop():
  """A subset of all examples is all of them, in whatever order."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)) + 0.3
  x, y = x.astype(np.float32).tolist(), y.astype(np.float32).tolist()

  def k(a, b):
    return (sum(p * q for p, q in zip(a, b, strict=True)) / 4 + 1) ** 3

  expected = 0.0
  for i in range(9):
    for j in range(9):
      own = k(x[i], x[j]) + k(y[i], y[j])
      expected += own / 72 * (i != j) - 2 * k(x[i], y[j]) / 81
  batch = {"fake_features": np.array(x), "real_features": np.array(y)}
  found = score(kid, batch, subsets=2, subset_size=9)
  assert math.isclose(found["kid"], expected, rel_tol=1e-9)
  assert found["kid_std"] < 1e-12


def test_kid_needs_a_subset():
  batch = {f"{side}_features": np.ones((7, 2)) for side in ("real", "fake")}
  with pytest.raises(ValueError, match=r"8 examples .* real \(7, 2\)"):
    score(kid, batch, subset_size=8)
  with pytest.raises(ValueError, match="two examples"):
    kid.init(subset_size=1)


def test_inception_score_of_certain_and_of_ignorant_classifiers():
  """c classes equally often and surely: c. No idea: 1."""
  sure = 1e3 * np.eye(5)[np.arange(40) % 5]
  found = score(inception_score, {"fake_logits": sure}, splits=1)
  assert found == pytest.approx(
    {"inception_score": 5, "inception_score_std": 0}
  )
  found = score(inception_score, {"fake_logits": 0 * sure}, splits=4)
  assert found["inception_score"] == pytest.approx(1)


def test_inception_score_is_entropy_of_the_mean_less_mean_entropy():
  """Mutual information, split by split, on the shuffled samples."""
  logits = np.random.default_rng(1).normal(size=(11, 6)).astype(np.float32)
  p = np.exp(logits.astype(float))
  p /= p.sum(1, keepdims=True)
  p = p[np.random.RandomState(2020).permutation(11)]

  def entropy(q):
    return -np.sum(q * np.log(q), axis=-1)

  scores = [
    np.exp(entropy(part.mean(0)) - entropy(part).mean())
    for part in (p[:3], p[3:7], p[7:])
  ]
  found = score(inception_score, {"fake_logits": logits}, splits=3)
  assert math.isclose(found["inception_score"], np.mean(scores), rel_tol=1e-9)
  assert math.isclose(found["inception_score_std"], np.std(scores))


def test_inception_score_needs_a_sample_a_split():
  with pytest.raises(ValueError, match="10 samples or more, not 9"):
    score(inception_score, {"fake_logits": np.ones((9, 4))})
  with pytest.raises(ValueError, match="splits"):
    inception_score.init(splits=0)


def embeddings(n, m, seed=2):
  rng = np.random.default_rng(seed)
  return {
    "real_embedding": rng.normal(size=(n, 5)),
    "fake_embedding": rng.normal(size=(m, 5)) + 0.5,
  }


def test_cmmd_is_the_double_loop(monkeypatch):
  """Of unit vectors, with each point its own partner as well."""
  monkeypatch.setattr(cmmd, "_ROWS", 4)
  batch = embeddings(9, 9)
  x, y = (
    [(v / np.linalg.norm(v)).tolist() for v in rows.astype(np.float32)]
    for rows in batch.values()
  )

  def mean(a, b):
    return np.mean(
      [math.exp(-(math.dist(u, v) ** 2) / 200) for u in a for v in b]
    )

  expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
  assert math.isclose(score(cmmd, batch)["cmmd"], expected, rel_tol=1e-6)


def test_cmmd_of_two_points():
  """2 (1 - k(x, y)) at distance 2^(1/2), whatever the lengths are."""
  batch = {
    "real_embedding": np.array([[3.0, 0.0]]),
    "fake_embedding": np.array([[0.0, 0.5]]),
  }
  expected = 2000 * (1 - math.exp(-0.01))
  assert math.isclose(score(cmmd, batch)["cmmd"], expected, rel_tol=1e-9)


def test_cmmd_of_equal_sets_is_zero_and_the_sets_may_differ_in_size():
  real = embeddings(12, 1)["real_embedding"]
  batch = {"real_embedding": real, "fake_embedding": real}
  assert abs(score(cmmd, batch)["cmmd"]) < 1e-9
  state = cmmd.update(cmmd.init(), {"real_embedding": real})
  twice = np.concatenate([real, real])
  state = cmmd.update(state, {"fake_embedding": twice})
  assert abs(cmmd.compute(state)["cmmd"]) < 1e-9


def test_clip_score_is_the_mean_cosine_and_its_error():
  rng = np.random.default_rng(3)
  image, text = rng.normal(size=(2, 20, 6))
  cosines = [
    a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(image, text, strict=True)
  ]
  batch = {"image_embedding": image, "text_embedding": text}
  found = score(clip_score, batch)
  assert math.isclose(found["clip_score"], np.mean(cosines))
  error = np.std(cosines, ddof=1) / math.sqrt(20)
  assert math.isclose(found["clip_score_stderr"], error)
  # No clipping at zero: opposite directions are worse than unrelated ones.
  batch["text_embedding"] = -7 * image
  assert math.isclose(score(clip_score, batch)["clip_score"], -1)


def test_embeddings_need_a_direction_and_a_partner():
  batch = {
    "image_embedding": np.zeros((2, 3)),
    "text_embedding": np.ones((2, 3)),
  }
  with pytest.raises(ValueError, match="zero row"):
    score(clip_score, batch)
  with pytest.raises(ValueError, match="differ"):
    score(clip_score, batch | {"text_embedding": np.ones((2, 4))})


def test_lpips_is_the_mean_over_pairs():
  assert score(lpips, {"lpips": np.array([0.1, 0.5])})["lpips"] == 0.3
  for wrong in (np.array([0.1, np.nan]), np.ones((2, 2))):
    with pytest.raises(ValueError, match=r"finite and \[b\]"):
      score(lpips, {"lpips": wrong})
  with pytest.raises(ValueError, match=r"-0\.1"):
    score(lpips, {"lpips": np.array([-0.1])})
