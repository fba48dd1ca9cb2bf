"""Laws of every sampler, and what ancestral sampling does to a joint law."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import plugins
from vq_jax.priors import absorbing
from vq_jax.types import Model

K = 5
# Those that the prior of these laws serves; test_autoregressive has the others.
SAMPLERS = [
  name
  for name in plugins.available("samplers")
  if all(
    hasattr(absorbing.Prior(K), need)
    for need in plugins.resolve("samplers", name).NEEDS
  )
]
REVISING = ("corrector", "critic", "remask")
# Network calls of 9 steps over 4 tokens, where they are not 9.
CALLS = {"corrector": 18, "events": 4}


def needed(name, shape):
  """Options that a sampler cannot do without."""
  critic = lambda ids: jnp.sin(9.0 * ids + jnp.arange(ids.shape[1]))  # noqa: E731
  return {
    "critic": {"critic": critic},
    "halton": {"canvas": (1, shape[1])},
  }.get(name, {})


def bound(what, name, model, prior, shape, **options):
  """key -> what the sampler draws."""
  function = getattr(plugins.resolve("samplers", name), what)
  options |= needed(name, shape)
  return lambda key: function(key, model, prior, shape, **options)


def call(what, name, key, *args, **options):
  """Compiled: one by one the operations would each be compiled."""
  return jax.jit(bound(what, name, *args, **options))(key)


draw = functools.partial(call, "sample")
trajectory = functools.partial(call, "trajectory")


def exact_denoiser(joint):
  """p(x_i | visible tokens) of a joint law [K .. K], by enumeration."""
  n, k = joint.ndim, joint.shape[0]
  states = np.array(list(itertools.product(range(k), repeat=n)))  # [S n]
  weights = jnp.asarray(joint[tuple(states.T)])

  def denoise(z, t):
    del t
    fits = (z[:, None] == states) | (z[:, None] == k)  # [b S n]
    p = weights * jnp.all(fits, -1)  # [b S]
    marginal = jnp.einsum("bs,snk->bnk", p, jax.nn.one_hot(states, k))
    total = jnp.sum(marginal, -1, keepdims=True)
    return jnp.log(marginal / total + 1e-30)

  return Model(denoise)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_oracle_is_recovered(name, steps, key):
  """A denoiser that knows x must give back x: every token, no mask left."""
  x = jnp.arange(32).reshape(4, 8) % K
  oracle = Model(lambda z, t: 1e6 * (jax.nn.one_hot(x, K) - 1.0))
  ids = draw(name, key, oracle, absorbing.Prior(K), x.shape, steps=steps)
  np.testing.assert_array_equal(ids, x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_mask_is_left_and_jit_changes_nothing(name, key):
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))

  args = (model, absorbing.Prior(K), (64, 16))
  ids = bound("sample", name, *args, steps=5)(key)
  assert ids.shape == (64, 16) and ((ids >= 0) & (ids < K)).all()
  np.testing.assert_array_equal(ids, draw(name, key, *args, steps=5))


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_tokens_do_not_change(name, key):
  known = jnp.where(jnp.arange(16) < 6, jnp.arange(16) % K, K)[None]
  known = jnp.tile(known, (8, 1))
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  ids = draw(
    name, key, model, absorbing.Prior(K), (8, 16), steps=7, known=known
  )
  np.testing.assert_array_equal(ids[:, :6], known[:, :6])
  assert (ids < K).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_traced_once_and_called_as_documented(name, key):
  """Of "events" as often as something is revealed, n times at most."""
  traces, calls = [], []

  def denoise(z, t):
    traces.append(z.shape)
    jax.debug.callback(lambda t: calls.append(t), t)
    return jnp.full((*z.shape, K), -math.log(K))

  prior = absorbing.Prior(K)
  run = jax.jit(bound("sample", name, Model(denoise), prior, (2, 4), steps=9))
  run(key)
  jax.effects_barrier()
  expected = CALLS.get(name, 9)
  assert len(calls) == expected or (name == "events" and len(calls) < 4)
  run(jax.random.key(1))
  assert traces == [(2, 4)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_position_is_revealed_exactly_once(name, key):
  """By those that do not revise; the others leave no mask either."""
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  states = trajectory(name, key, model, absorbing.Prior(K), (8, 16), steps=10)
  states = np.asarray(states)  # [11 8 16]
  assert (states[0] == K).all() and (states[-1] < K).all()
  changes = (states[1:] != states[:-1]).sum(0)
  assert (changes >= 1).all()
  assert (changes == 1).all() == (name not in REVISING)


@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectory_starts_in_the_known_and_ends_in_the_sample(name, key):
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  known = jnp.tile(jnp.where(jnp.arange(7) < 2, 1, K), (3, 1))
  args = (name, key, model, absorbing.Prior(K), (3, 7))
  states = trajectory(*args, steps=4, known=known)
  np.testing.assert_array_equal(states[0], known)
  last = draw(*args, steps=4, known=known)
  np.testing.assert_array_equal(states[-1], last)


def test_reveals_are_spread_evenly_over_the_steps(key):
  """n / S tokens a step in expectation (arXiv:2111.12701, section 3.1)."""
  model = Model(lambda z, t: jnp.full((*z.shape, K), -math.log(K)))
  prior = absorbing.Prior(K)
  states = trajectory("ancestral", key, model, prior, (2000, 16), steps=8)
  revealed = np.diff((np.asarray(states) < K).mean((1, 2)))
  np.testing.assert_allclose(revealed, 1 / 8, atol=4 * math.sqrt(0.11 / 32e3))


def test_one_token_at_a_time_samples_the_true_joint(key):
  """Chi-square over all K^n states; the grid is so fine that no two tokens
  are revealed together, up to 3 / 512 of the runs."""
  n, k, count = 3, 3, 4000
  rng = np.random.default_rng(0)
  joint = rng.dirichlet(np.full(k**n, 0.5)).reshape((k,) * n)
  prior = absorbing.Prior(k)
  ids = draw(
    "ancestral", key, exact_denoiser(joint), prior, (count, n), steps=512
  )
  found = np.zeros_like(joint)
  np.add.at(found, tuple(np.asarray(ids).T), 1)
  expected = joint * count
  seen = expected > 1
  statistic = ((found - expected)[seen] ** 2 / expected[seen]).sum()
  freedom = seen.sum() - 1
  assert statistic < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_tokens_revealed_together_break_the_joint(steps, key):
  """Half AA, half BB: with S steps the pair is drawn at once with probability
  1/S, and then wrong half of the time (arXiv:2111.12701, section 3.1)."""
  joint = np.array([[0.5, 0.0], [0.0, 0.5]])
  count = 8000
  prior, shape = absorbing.Prior(2), (count, 2)
  ids = draw("ancestral", key, exact_denoiser(joint), prior, shape, steps=steps)
  wrong = float((ids[:, 0] != ids[:, 1]).mean())
  expected = 1 / (2 * steps)
  sigma = math.sqrt(expected * (1 - expected) / count)
  assert abs(wrong - expected) < 4 * sigma
