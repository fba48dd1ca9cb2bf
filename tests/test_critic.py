"""Token-Critic: what it masks again, what it never does, and what it is for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import pipeline, steps
from vq_jax.priors import absorbing
from vq_jax.samplers import confidence, critic
from vq_jax.types import Model

K = 3
PRIOR = absorbing.Prior(K)
UNIFORM = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))


def drawn(what, key, model, shape, **options):
  run = lambda key: getattr(critic, what)(key, model, PRIOR, shape, **options)  # noqa: E731
  return np.asarray(jax.jit(run)(key))


def test_what_scores_highest_is_masked_again(key):
  """Tokens that are known in advance, a critic that scores positions: after
  each call exactly its highest are masked, as many as the schedule says."""
  x, n = jnp.arange(12) % K, 12
  scores = jax.random.normal(key, (n,))
  oracle = Model(lambda z, t: 1e6 * (jax.nn.one_hot(x, K) - 1.0)[None])
  judge = lambda ids: jnp.broadcast_to(scores, ids.shape)  # noqa: E731
  states = drawn(
    "trajectory", key, oracle, (1, n), steps=5, critic=judge, noise=0.0
  )
  order = np.argsort(-scores)
  left = steps.masks_left("cosine", n, 5)[n]
  for state, count in zip(states[1:, 0], left, strict=True):
    assert (state[order[:count]] == K).all()
    np.testing.assert_array_equal(state[order[count:]], x[order[count:]])


def test_it_revises_what_other_samplers_keep(key):
  """A network that knows nothing, and a critic that knows x: what is wrong is
  drawn again. `confidence` gets a third right, whatever it does."""
  x = jnp.arange(32) % K
  options = {"steps": 16, "schedule": "cosine"}
  judge = lambda ids: (ids != x).astype(jnp.float32)  # noqa: E731
  ids = drawn("sample", key, UNIFORM, (100, 32), critic=judge, **options)
  plain = jax.jit(
    lambda key: confidence.sample(key, UNIFORM, PRIOR, (100, 32), **options)
  )(key)
  assert abs((plain == x).mean() - 1 / K) < 4 * math.sqrt(0.22 / plain.size)
  assert (ids == x).mean() > 0.8


def test_noise_changes_which_but_not_how_many(key):
  """With more noise than the critic has to say, all positions are alike."""
  judge = lambda ids: jnp.broadcast_to(0.01 * jnp.arange(8.0), ids.shape)  # noqa: E731
  counts = steps.masks_left("uniform", 8, 2)[8]
  for noise, alike in ((0.0, False), (1e3, True)):
    states = drawn(
      "trajectory",
      key,
      UNIFORM,
      (500, 8),
      steps=2,
      schedule="uniform",
      critic=judge,
      noise=noise,
    )
    masked = states[1] == K
    assert (masked.sum(1) == counts[0]).all()
    often = masked.mean(0)
    assert (np.ptp(often) < 0.15) == alike


def test_known_tokens_are_never_judged(key):
  """Though the critic calls them the worst."""
  known = jnp.where(jnp.arange(10) < 4, 1, K)[None]
  judge = lambda ids: jnp.where(jnp.arange(10) < 4, 9.0, 0.0) + 0.0 * ids  # noqa: E731
  states = drawn(
    "trajectory", key, UNIFORM, (5, 10), steps=3, critic=judge, known=known
  )
  assert (states[:, :, :4] == 1).all() and (states[-1] < K).all()


def test_impossible_options_are_refused(key):
  section = {"name": "critic", "steps": 2}
  with pytest.raises(ValueError, match="needs the key 'critic'"):
    pipeline.build_sampler(section, PRIOR)
  with pytest.raises(ValueError, match="noise must be at least 0"):
    judge = lambda ids: 0.0 * ids  # noqa: E731
    critic.sample(
      key, UNIFORM, PRIOR, (1, 4), steps=2, critic=judge, noise=-1.0
    )
