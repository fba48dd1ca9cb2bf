"""Samplers of embeddings: laws, order of convergence, and who may use them."""

import functools
import itertools
from unittest import mock

import embedded
import jax
import jax.numpy as jnp
import joints
import numpy as np
import pytest
from scipy import stats

from vq_jax import pipeline, plugins
from vq_jax.priors import absorbing, lcmd
from vq_jax.samplers import _state
from vq_jax.samplers._run import Run
from vq_jax.types import Model

K, D = 3, 2
CODES = jnp.array([[1.0, 0.5], [-1.2, 0.1], [0.3, -1.0], [5.0, 5.0]])
LAW = np.array([0.5, 0.2, 0.3])
PRIOR = lcmd.Prior(K, shift=0.7)
SAMPLERS = ("ancestral", "ddim", "multistep")


def call(what, name, key, *args, **options):
  function = getattr(plugins.resolve("samplers", name), what)
  return jax.jit(lambda key: function(key, *args, **options))(key)


draw = functools.partial(call, "sample")
trajectory = functools.partial(call, "trajectory")


def path(name, key, *args, **options):
  """The embeddings that a run goes through [steps + 1, b n d]."""

  def end(key, model, prior, z, known, states, times):
    return Run(z, states)

  with mock.patch.object(_state, "finish", end):
    return trajectory(name, key, *args, **options)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("steps", "grid"), [(1, "time"), (8, "log_snr")])
def test_oracle_is_recovered(name, steps, grid, key):
  """The state before the end is at x, up to the noise that is left."""
  x = jnp.arange(24).reshape(4, 6) % K
  model = embedded.oracle(x, CODES)
  args = (name, key, model, PRIOR, x.shape)
  states = path(*args, steps=steps, grid=grid)
  far = np.abs(states[-1] - CODES[x]).max()
  assert far < 0.05  # sigma_0 = 0.002
  shown = PRIOR.show(model, states[-1], jnp.float32(0.0))
  np.testing.assert_array_equal(shown, x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_tokens_do_not_change_and_the_network_is_traced_twice(name, key):
  """For a step, and for the ids at the end."""
  calls = []

  def denoise(z, t):
    calls.append(z.shape)
    return embedded.exact(PRIOR, LAW, CODES).denoise(z, t)

  known = jnp.tile(jnp.where(jnp.arange(6) < 2, 1, K), (3, 1))
  model = embedded.exact(PRIOR, LAW, CODES)._replace(denoise=denoise)
  args = (name, key, model, PRIOR, (3, 6))
  states = np.asarray(trajectory(*args, steps=4, known=known))
  assert calls == [(3, 6, D)] * 2
  assert states.shape == (5, 3, 6) and ((states >= 0) & (states < K)).all()
  np.testing.assert_array_equal(states[-1, :, :2], 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_known_is_as_noisy_as_the_rest(name, key):
  """Its states have the law q(z_t | x): Kolmogorov-Smirnov at every stop."""
  known = jnp.tile(jnp.array([[2, K]]), (1500, 1))
  model = embedded.exact(PRIOR, LAW, CODES)
  states = path(name, key, model, PRIOR, known.shape, steps=3, known=known)
  for z, t in zip(states, np.linspace(1, 0, 4), strict=True):
    alpha, sigma = embedded.levels(PRIOR.log_snr(jnp.float32(t)))
    score = (z[:, 0] - alpha * CODES[2]) / sigma
    assert stats.kstest(np.asarray(score).ravel(), "norm").pvalue > 1e-3


def test_ancestral_steps_with_an_oracle_have_the_forward_marginals(key):
  """Kolmogorov-Smirnov at every stop, and nothing is the same twice."""
  x = jnp.zeros((3000, 1), jnp.int32)
  model = embedded.oracle(x, CODES)
  states = np.asarray(path("ancestral", key, model, PRIOR, x.shape, steps=5))
  for z, t in zip(states, np.linspace(1, 0, 6), strict=True):
    alpha, sigma = embedded.levels(PRIOR.log_snr(jnp.float32(t)))
    score = (z - alpha * np.asarray(CODES[0])) / sigma
    assert stats.kstest(score.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("ancestral", {}),
    ("ddim", {}),
    ("ddim", {"eta": 0.5}),
    ("multistep", {"grid": "log_snr"}),
  ],
)
def test_an_exact_model_samples_the_true_law(name, options, key):
  """Chi-square of 4000 tokens over the codes, in many steps."""
  model = embedded.exact(PRIOR, LAW, CODES)
  ids = draw(name, key, model, PRIOR, (4000, 1), steps=200, **options)
  found = joints.histogram(ids, K)
  assert joints.chi_square(found, 4000 * LAW) < 4


def test_steps_shrink_the_error_of_a_solver_by_its_order(key):
  """Against 1024 steps, from the same noise, to where the guess is smooth.

  The first and the last step of `multistep` are of first order, but there are
  only two of them.
  """
  prior = lcmd.Prior(K, shift=1.0, margin=0.2)
  model = embedded.exact(prior, LAW, CODES)
  args = (key, model, prior, (64, 1))

  def error(name, steps, truth):
    z = path(name, *args, steps=steps, grid="log_snr")[-1]
    return float(jnp.sqrt(jnp.mean((z - truth) ** 2)))

  truth = path("multistep", *args, steps=1024, grid="log_snr")[-1]
  for name, order in (("ddim", 1), ("multistep", 2)):
    few, many = (error(name, steps, truth) for steps in (24, 96))
    found = np.log(few / many) / np.log(4)
    assert abs(found - order) < 0.25, (name, found)
  assert error("multistep", 24, truth) < 0.2 * error("ddim", 24, truth)


def test_grids_are_equally_spaced_in_what_they_say():
  for name, unit in (("time", lambda t: t), ("log_snr", PRIOR.log_snr)):
    times = _state.grid(PRIOR, 7, name)
    assert times[0] == 1 and times[-1] == 0
    between = np.diff(unit(times))
    np.testing.assert_allclose(between, between.mean(), rtol=2e-3)


def test_the_end_is_a_mode_or_a_draw(key):
  """Where the network is not sure at t = 0."""
  log_law = jnp.log(jnp.asarray(LAW, jnp.float32))
  model = embedded.oracle(jnp.zeros((4000, 1), int), CODES)._replace(
    denoise=lambda z, t: jnp.broadcast_to(log_law, (*z.shape[:2], K))
  )
  z = jnp.zeros((4000, 1, D))
  ids = lcmd.Prior(K).finish(key, model, z)
  assert (ids == 0).all()
  drawn = lcmd.Prior(K, decode="draw").finish(key, model, z)
  assert joints.chi_square(joints.histogram(drawn, K), 4000 * LAW) < 4


def paired():
  """Two tokens of two codes that are mostly alike, and their exact denoiser."""
  joint = np.array([[0.48, 0.02], [0.02, 0.48]])
  codes = jnp.array([[1.0], [-1.0], [0.0]])
  prior = lcmd.Prior(2, shift=0.7)
  states = np.array(list(itertools.product(range(2), repeat=2)))

  def denoise(z, t):
    log_snr = prior.log_snr(t)[:, None, None]
    alpha = jnp.sqrt(jax.nn.sigmoid(log_snr))[..., None]
    far = (z[:, None] - alpha * codes[states]) ** 2
    far = far.sum((-1, -2)) / jax.nn.sigmoid(-log_snr)[..., 0]
    p = jax.nn.softmax(jnp.log(joint.ravel()) - 0.5 * far)
    return jnp.log(p @ jax.nn.one_hot(states, 2).transpose(1, 0, 2) + 1e-30)

  def each(z, t):
    return denoise(z, t).transpose(1, 0, 2)

  return prior, Model(each, codes)


def test_repeated_steps_bring_the_free_to_agree_with_the_known(key):
  """The second token follows the first with probability 0.96."""
  prior, model = paired()
  known = jnp.tile(jnp.array([[0, 2]]), (1500, 1))

  def follows(name, **options):
    args = (name, key, model, prior, known.shape)
    ids = draw(*args, steps=10, known=known, **options)
    assert (ids[:, 0] == 0).all()
    return float((ids[:, 1] == 0).mean())

  assert follows("ancestral") < 0.85
  assert abs(follows("corrector", corrections=11) - 0.96) < 0.03


@pytest.mark.parametrize(
  ("sampler", "prior", "message"),
  [
    ({"name": "ddim"}, absorbing.Prior(K), "needs a prior with estimate"),
    ({"name": "multistep"}, absorbing.Prior(K), "move, log_snr"),
    ({"name": "purity"}, PRIOR, "needs a prior with kernel"),
    ({"name": "fewer_tokens"}, PRIOR, "needs a prior with kernel"),
    ({"name": "events"}, PRIOR, "needs a prior with kernel"),
    ({"name": "autoregressive"}, PRIOR, "needs a prior with causal"),
    ({"name": "multistep", "eta": 1.0}, PRIOR, "no key 'eta'"),
  ],
)
def test_samplers_that_cannot_serve_a_prior_are_refused(
  sampler, prior, message
):
  steps = {} if sampler["name"] == "autoregressive" else {"steps": 2}
  with pytest.raises(ValueError, match=message):
    pipeline.build_sampler(sampler | steps, prior)


@pytest.mark.parametrize(
  ("name", "prior", "options", "message"),
  [
    ("ancestral", absorbing.Prior(K), {"grid": "log_snr"}, "take 'time'"),
    ("ddim", PRIOR, {"grid": "logsnr"}, "Did you mean 'log_snr'"),
    ("ddim", PRIOR, {"eta": 1.5}, "eta must be from 0 to 1"),
    ("multistep", PRIOR, {"steps": 0}, "at least 1 step"),
    ("corrector", PRIOR, {"corrections": -1}, "at least 0"),
  ],
)
def test_bad_options_are_refused(name, prior, options, message, key):
  model = embedded.exact(PRIOR, LAW, CODES)
  with pytest.raises(ValueError, match=message):
    draw(name, key, model, prior, (1, 2), **{"steps": 2} | options)
