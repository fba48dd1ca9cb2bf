"""ReMDM: one step, whole runs by enumeration, and what eta = 0 must be."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joints import chi_square, conditional, exact_model, histogram

from vq_jax import pipeline
from vq_jax.priors import absorbing, vq_diffusion
from vq_jax.samplers import ancestral, remask
from vq_jax.types import Model

K, COUNT = 2, 20_000
JOINT = np.array([[0.4, 0.1], [0.05, 0.45]])
MASKED = {"linear": lambda t: t, "cosine": lambda t: math.sin(t * math.pi / 2)}


def drawn(what, key, model, prior, shape, **options):
  run = lambda key: getattr(remask, what)(key, model, prior, shape, **options)  # noqa: E731
  return np.asarray(jax.jit(run)(key))


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5])
def test_a_step_has_the_published_probabilities(sigma):
  """Of alpha_t = 0.3, alpha_s = 0.6, counted on a grid of uniform numbers."""
  alpha_t, alpha_s, n = 0.3, 0.6, 7000
  u = (jnp.arange(n) + 0.5) / n
  z = jnp.stack([jnp.full(n, K), jnp.zeros(n, int)])
  token = jnp.ones((2, n), int)
  new = remask.step(u, token, z, 1 - alpha_t, 1 - alpha_s, sigma, K)
  lifted = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
  stays = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
  of_mask = [(new[0] == v).mean() for v in (0, 1, K)]
  of_token = [(new[1] == v).mean() for v in (0, 1, K)]
  np.testing.assert_allclose(of_mask, [0, lifted, stays], atol=2 / n)
  np.testing.assert_allclose(of_token, [1 - sigma, 0, sigma], atol=2 / n)


def sigmas(strategy, eta, most, held, doubt):
  """Of each position, for a mask and for a token."""
  n = len(doubt)
  if strategy == "cap":
    return [min(eta, most)] * n
  if strategy == "rescale":
    return [eta * most] * n
  if strategy == "loop":
    return [min(eta, most) if held else 0.0] * n
  weights = [0.0 if d is None else math.exp(-d) for d in doubt]
  return [eta * most * w / max(sum(weights), 1e-30) for w in weights]


def law(strategy, eta, shares):
  """A run by enumeration; a state is (ids, p of each token when it was drawn).

  By alpha = 1 - share, with p of the paper beside each token.
  """
  n = JOINT.ndim
  states = {((K,) * n, (None,) * n): 1.0}
  for t, s in itertools.pairwise(shares):
    a, b = 1 - t, 1 - s  # alpha_t, alpha_s.
    most = min(1.0, (1 - b) / a) if a > 0 else 1.0
    after = {}
    for (z, seen), prob in states.items():
      p = conditional(JOINT, z)
      sigma = sigmas(strategy, eta, most, t == s, seen)
      choices = []
      for i, v in enumerate(z):
        if v < K:
          one = [(v, seen[i], 1 - sigma[i]), (K, None, sigma[i])]
        else:
          lift = (b - (1 - sigma[i]) * a) / (1 - a)
          one = [(k, p[i, k], lift * p[i, k]) for k in range(K)]
          one.append((K, None, 1 - lift))
        choices.append(one)
      for choice in itertools.product(*choices):
        ids, seen_now, odds = zip(*choice, strict=True)
        state = ids, seen_now
        after[state] = after.get(state, 0.0) + prob * math.prod(odds)
    states = after
  array = np.zeros_like(JOINT)
  for (z, _), prob in states.items():
    if K in z:
      assert prob < 1e-9
    else:
      array[z] += prob
  assert abs(array.sum() - 1) < 1e-9
  return array


@pytest.mark.parametrize(
  ("strategy", "eta", "schedule"),
  [
    ("cap", 0.4, "linear"),
    ("rescale", 0.6, "cosine"),
    ("conf", 1.0, "linear"),
    ("loop", 0.5, "linear"),
  ],
)
def test_a_run_has_the_enumerated_law(strategy, eta, schedule, key):
  """Of four steps; the masks that are left out would be noticed."""
  times = [1.0, 0.75, 0.5, 0.25, 0.0]
  shares = [MASKED[schedule](t) for t in times]
  if strategy == "loop":
    shares = [1.0, 0.1 + 0.9 * (0.75 - 0.55) / 0.45, 0.1, 0.1, 0.0]
  prior = absorbing.Prior(K, schedule=schedule)
  args = (exact_model(JOINT), prior, (COUNT, 2))
  options = {"steps": 4, "strategy": strategy, "eta": eta}
  found = histogram(drawn("sample", key, *args, **options), K)
  expected = law(strategy, eta, shares)
  assert chi_square(found, COUNT * expected) < 4
  plain = law(strategy, 0.0, shares)
  assert strategy == "conf" or chi_square(found, COUNT * plain) > 6


@pytest.mark.parametrize(
  ("strategy", "seen"), [("cap", 0), ("rescale", 2), ("conf", 0)]
)
def test_without_remasking_the_draws_are_those_of_ancestral(
  strategy, seen, key
):
  """Of a network that hears the time; with and without known tokens."""
  k, n = 3, 6
  table = jax.random.normal(key, (k + 1, k))

  def denoise(z, t):
    logits = table[z] + table[z].mean(1, keepdims=True) * t[:, None, None]
    return jax.nn.log_softmax(logits + jnp.arange(k) * t[:, None, None])

  prior = absorbing.Prior(k, schedule="cosine")
  known = jnp.where(jnp.arange(n) < seen, 1, k)[None] if seen else None
  args = (Model(denoise), prior, (50, n))
  options = {"steps": 5, "known": known}
  run = lambda key: ancestral.sample(key, *args, **options)  # noqa: E731
  found = drawn("sample", key, *args, **options, strategy=strategy, eta=0.0)
  np.testing.assert_array_equal(found, jax.jit(run)(key))


@pytest.mark.parametrize(
  ("strategy", "eta"), [("cap", 0.3), ("rescale", 1.0), ("loop", 0.3)]
)
def test_the_share_of_masks_is_that_of_the_schedule(strategy, eta, key):
  """However many come back: the marginals q(z_s | x) of an oracle that is
  right, on every stop."""
  x = jnp.arange(8) % K
  oracle = Model(
    lambda z, t: jnp.broadcast_to(
      1e6 * (jax.nn.one_hot(x, K) - 1.0), (*z.shape, K)
    )
  )
  steps, b = 10, 3000
  args = (oracle, absorbing.Prior(K, schedule="cosine"), (b, 8))
  states = drawn(
    "trajectory", key, *args, steps=steps, strategy=strategy, eta=eta
  )
  times = 1 - np.arange(steps + 1) / steps
  share = np.sin(np.pi / 2 * times)
  if strategy == "loop":
    share = np.interp(times, (0, 0.05, 0.55, 1), (0, 0.1, 0.1, 1))
  found = (states == K).mean((1, 2))
  sigma = np.sqrt(share * (1 - share) / states[0].size)
  assert (np.abs(found - share) <= 4 * sigma + 1e-7).all()
  back = (states[1:] == K) & (states[:-1] < K)
  assert back[1:-1].any((1, 2)).sum() >= 3  # Some did come back.
  assert ((states == K) | (states == x)).all()


def test_the_network_is_told_when_as_many_are_masked(key):
  """While masks are held, a time with a tenth of them."""
  told = []

  def denoise(z, t):
    jax.debug.callback(lambda t: told.append(float(t[0])), t)
    return jnp.full((*z.shape, K), -math.log(K))

  prior, shape = absorbing.Prior(K, schedule="square"), (1, 100)
  drawn("sample", key, Model(denoise), prior, shape, steps=4, strategy="loop")
  jax.effects_barrier()
  share = [1.0, 0.1 + 0.9 * (0.75 - 0.55) / 0.45, 0.1, 0.1]
  nearest = np.round(np.sqrt(share) * 100) / 100
  np.testing.assert_allclose(told, nearest, atol=0.011)


def test_other_chains_and_options_are_refused(key):
  model = Model(lambda z, t: jnp.zeros((*z.shape, K)))
  section = {"name": "remask", "steps": 4}
  for schedule in ("alpha1", "mixture"):
    prior = vq_diffusion.Prior(K, schedule=schedule, time_steps=8)
    draw = pipeline.build_sampler(section, prior)
    with pytest.raises(ValueError, match=r"'remask' .*masks every token"):
      jax.eval_shape(lambda key: draw(key, model, prior, (1, 4)), key)  # noqa: B023
  for options, message in (
    ({"steps": 0}, "at least 1 step"),
    ({"strategy": "confi"}, "Did you mean 'conf'"),
    ({"eta": 1.5}, "eta must be from 0 to 1"),
  ):
    with pytest.raises(ValueError, match=message):
      args = (key, model, absorbing.Prior(K), (1, 4))
      remask.sample(*args, **{"steps": 2} | options)
