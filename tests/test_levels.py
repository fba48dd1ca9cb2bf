"""Losses by the number of masks: the truth, and where they are kept."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stages import prior_task

from vq_jax import pipeline
from vq_jax.priors import absorbing
from vq_jax.system import build_system, init_system
from vq_jax.train import levels, sampling
from vq_jax.types import Model

K, N = 3, 4


def test_losses_are_means_over_all_masks_and_images():
  """By enumeration, for a model that hears tokens, time and request."""
  rng = np.random.default_rng(0)
  table, trend = rng.normal(size=(K + 1, K)), rng.normal(size=K)
  source = [
    {"ids": ids, "label": i} for i, ids in enumerate(rng.integers(0, K, (5, N)))
  ]

  def log_probs(z, t, label, np=np):
    logits = np.asarray(table)[z].mean(-2) + t * trend + label * trend**2
    return logits - np.log(np.exp(logits).sum(-1))

  def view(params, rows):
    def one(z, t, label):
      said = log_probs(z, t, label, jnp).astype(jnp.float32)
      return jnp.broadcast_to(params * said, (N, K))

    return Model(lambda z, t: jax.vmap(one)(z, t, rows["label"]))

  draws, options = 4000, {"keys": ("label",), "batch": 256}
  prior, key = absorbing.Prior(K, schedule="cosine"), jax.random.key(0)
  found = levels.losses(
    view, jnp.float32(1.0), prior, source, key, draws=draws, **options
  )
  for k in range(1, N + 1):
    # The time of k masks, on a grid of N: |k / N - sin(pi t / 2)| is least.
    ratio = np.sin(np.arange(1, N + 1) / N * np.pi / 2)
    t = (np.argmin(np.abs(ratio - k / N)) + 1) / N
    nats = []
    for row in source:
      for hidden in itertools.combinations(range(N), k):
        z = np.where(np.isin(np.arange(N), hidden), K, row["ids"])
        said = log_probs(z, t, row["label"])
        nats.append(-np.mean(said[row["ids"][list(hidden)]]))
    error = np.std(nats) / np.sqrt(draws)
    assert abs(found[k - 1] - np.mean(nats)) < 4 * error + 1e-5


def test_losses_do_not_depend_on_the_batch():
  model = lambda params, rows: Model(  # noqa: E731
    lambda z, t: jax.nn.log_softmax(params[z])
  )
  params = jax.random.normal(jax.random.key(0), (K + 1, K))
  source = [{"ids": np.arange(i, i + N) % K} for i in range(7)]
  args = (model, params, absorbing.Prior(K), source, jax.random.key(0))
  one, two = (
    levels.losses(*args, keys=(), batch=batch, draws=3) for batch in (5, 64)
  )
  np.testing.assert_allclose(one, two, rtol=1e-6)


def test_the_optimal_schedule_is_of_the_losses():
  """Noise that falls is smoothed before it can be exploited."""
  config = {"sampler": {"name": "purity", "steps": 2, "schedule": "optimal"}}
  assert levels.sampler(config) == config["sampler"]  # Not known yet.
  # Only the last two tokens are free.
  config["levels"] = [0.0, 0.0, 1.0, 1.0]
  assert levels.sampler(config)["schedule"] == (2, 2)
  # A dip at four masks: as they are, the best would be (1, 4), for 1 + 4 / 2;
  # the mean of 0.9 and 0.5, weighted by tokens, makes it dearer than 3 + 2 / 5.
  config["levels"] = [0.1, 0.2, 0.9, 0.5, 1.0]
  assert levels.sampler(config)["schedule"] == (3, 2)


def test_losses_are_measured_once_for_a_checkpoint(tmp_path, monkeypatch):
  _, config = prior_task(
    tmp_path / "tokens",
    sampler={"name": "fewer_tokens", "steps": 3, "schedule": "cosine"},
    condition={"dropout": 0.0, "null": "fixed"},
    net={"labels": 0},
    sample={"guidance": 0.0},
  )
  assert levels.known(config, tmp_path, 1, {}) is config  # Nothing asks.
  config["sampler"]["schedule"] = "optimal"
  system, prior = build_system(config), pipeline.build_prior(config["prior"])
  params = jax.jit(functools.partial(init_system, system))(jax.random.key(0))
  run = (params, np.arange(2), {})
  with pytest.raises(ValueError, match="a trained model's losses"):
    sampling.make_generator(config, system, prior)(*run)

  monkeypatch.setattr(levels, "DRAWS", 1)
  first = levels.known(config, tmp_path, 1, params)
  n = int(np.prod(system.net.grid))
  assert len(first["levels"]) == n and np.isfinite(first["levels"]).all()
  stored = json.loads((tmp_path / levels.FILE).read_text())
  assert stored == {"step": 1, "nats_per_masked_token": first["levels"]}
  ids = sampling.make_generator(first, system, prior)(*run)
  assert ids.shape == (2, n) and (ids < prior.vocab_size).all()

  monkeypatch.setattr(levels, "measure", lambda config, params: [2.0] * n)
  assert levels.known(config, tmp_path, 1, params) == first
  assert levels.known(config, tmp_path, 2, params)["levels"] == [2.0] * n
