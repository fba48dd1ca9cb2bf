"""Corrections: their transition matrix, what they keep, and what they mend."""

import types

import embedded
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joints import chi_square, exact_model, histogram

from vq_jax import transitions
from vq_jax.priors import absorbing, lcmd, vq_diffusion
from vq_jax.samplers import ancestral, corrector
from vq_jax.types import Model

K, COUNT = 3, 20_000
LAW = np.array([0.5, 0.2, 0.3])


class Uniform(vq_diffusion.Prior):
  """Keeps or replaces, with no mask: the chain of D3PM-uniform."""

  def kernel(self, t):
    return transitions.Kernel(1.0 - t, t, 0.0 * t)


PRIORS = {
  "absorbing": absorbing.Prior(K, schedule="cosine"),
  "mixture": vq_diffusion.Prior(K, schedule="mixture", time_steps=8),
  "uniform": Uniform(K, time_steps=8),
}


def dense(prior, t):
  return np.asarray(transitions.dense(prior.kernel(jnp.float32(t)), K), float)


def exact(prior):
  """Independent tokens of LAW: p(x | z_t) by Bayes' rule on dense matrices."""

  def denoise(z, t):
    to_z = jax.vmap(lambda t: transitions.dense(prior.kernel(t), K))(t)[:, :K]
    likely = jnp.take_along_axis(
      to_z.swapaxes(1, 2), z[..., None], 1, mode="clip"
    )
    return jax.nn.log_softmax(jnp.log(likely + 1e-30) + jnp.log(LAW))

  return Model(denoise)


@pytest.mark.parametrize("name", PRIORS)
def test_a_correction_has_the_dense_matrix_and_keeps_the_marginal(name, key):
  """From s = 0.3 to t = 0.6 and back, for tokens of a known law: the matrix
  q(z_t | z_s) p(z_s | z_t), and q(z_s) times it is q(z_s)."""
  prior, s, t = PRIORS[name], 0.3, 0.6
  at_s, at_t = dense(prior, s), dense(prior, t)
  forth = np.linalg.lstsq(at_s, at_t, rcond=None)[0]  # q(z_t | z_s).
  start = LAW @ at_s[:K]
  joint = start[:, None] * forth  # q(z_s, z_t).
  back = joint / np.maximum(joint.sum(0), 1e-30)
  matrix = forth @ back.T
  np.testing.assert_allclose(start @ matrix, start, atol=1e-6)

  z = jnp.tile(jnp.arange(K + 1), (COUNT, 1))
  run = lambda key: corrector.move(  # noqa: E731
    key, exact(prior), prior, z, *jnp.float32(jnp.array([s, t, s]))
  )
  found = np.asarray(jax.jit(run)(key))
  for state in range(K + 1):
    if start[state] < 1e-6:  # No mask is met in a chain without masks.
      continue
    counts = np.bincount(found[:, state], minlength=K + 1)
    expected = np.where(matrix[state] > 1e-6, COUNT * matrix[state], 0.0)
    assert counts[expected == 0].sum() == 0
    assert chi_square(counts, expected) < 4, (name, state)


@pytest.mark.parametrize("name", PRIORS)
def test_corrected_runs_keep_the_law(name, key):
  """At every stop, with the exact model of independent tokens."""
  prior = PRIORS[name]
  run = lambda key: corrector.trajectory(  # noqa: E731
    key, exact(prior), prior, (COUNT, 1), steps=3, corrections=2, length=0.4
  )
  states = np.asarray(jax.jit(run)(key))
  assert states.shape == (4, COUNT, 1)
  for z, t in zip(states, (1, 2 / 3, 1 / 3, 0), strict=True):
    found = np.bincount(z.ravel(), minlength=K + 1)
    expected = COUNT * (LAW @ dense(prior, t)[:K])
    if (expected > 1).sum() == 1:  # Nothing but masks.
      np.testing.assert_allclose(found, expected)
      continue
    assert chi_square(found, np.where(expected > 1, expected, 0.0)) < 4


def test_corrections_mend_what_was_drawn_together(key):
  """Two equal bits in one step are wrong half of the time; each correction
  that masks one of them alone can make it right."""
  joint = np.array([[0.5, 1e-9], [1e-9, 0.5]])
  prior, shape = absorbing.Prior(2), (4000, 2)

  def wrong(**options):
    args = (exact_model(joint), prior, shape)
    run = lambda key: corrector.sample(key, *args, steps=1, **options)  # noqa: E731
    ids = jax.jit(run)(key)
    return float((ids[:, 0] != ids[:, 1]).mean())

  assert abs(wrong(corrections=0) - 0.5) < 0.04
  # A pair goes from wrong to right with 2 r (1 - r), and with r^2 is redrawn:
  # wrong' = wrong (1 - r)^2 + r^2 / 2, for r = 1/2.
  expected = 0.5
  for _ in range(4):
    expected = 0.25 * expected + 0.125
  assert abs(wrong(corrections=4, length=0.5) - expected) < 0.03


def test_without_corrections_it_is_ancestral(key):
  joint = np.random.default_rng(0).dirichlet(np.full(9, 0.5)).reshape(3, 3)
  args = (exact_model(joint), absorbing.Prior(K), (COUNT, 2))

  @jax.jit
  def both(key):
    plain = ancestral.sample(key, *args, steps=2)
    return plain, corrector.sample(key, *args, steps=2, corrections=0)

  one, two = (histogram(ids, K) for ids in both(key))
  spread = np.sqrt(np.maximum(one + two, 1))
  assert (np.abs(one - two) < 4 * spread).all()


def test_embeddings_are_corrected_too(key):
  """Chi-square of the codes that an exact model draws."""
  codes = jnp.array([[1.0, 0.5], [-1.2, 0.1], [0.3, -1.0], [5.0, 5.0]])
  prior = lcmd.Prior(K, shift=0.7)
  model = embedded.exact(prior, LAW, codes)
  known = jnp.tile(jnp.array([[1, K]]), (3000, 1))
  run = lambda key: corrector.sample(  # noqa: E731
    key, model, prior, known.shape, steps=40, known=known, corrections=1
  )
  ids = np.asarray(jax.jit(run)(key))
  assert (ids[:, 0] == 1).all()
  assert chi_square(np.bincount(ids[:, 1], minlength=K), 3000 * LAW) < 4


def test_impossible_options_are_refused(key):
  prior = absorbing.Prior(K)
  still = types.SimpleNamespace(start=prior.start, reverse=1, finish=1)
  for which, options, message in (
    (prior, {"steps": 0}, "at least 1 step"),
    (prior, {"corrections": -1}, "at least 0"),
    (prior, {"length": 0.0}, r"in \(0, 1\]"),
    (prior, {"grid": "log_snr"}, "take 'time'"),
    (still, {}, "with kernel or forward; types has neither"),
  ):
    with pytest.raises(ValueError, match=message):
      args = (key, exact(prior), which, (1, 4))
      corrector.sample(*args, **{"steps": 2} | options)
