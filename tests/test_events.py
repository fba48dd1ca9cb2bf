"""Events: the law of the whole chain, for the calls that do something."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joints import chi_square, histogram

from vq_jax import pipeline
from vq_jax.priors import absorbing, vq_diffusion
from vq_jax.samplers import ancestral, events, fewer_tokens
from vq_jax.types import Model

K, N, STEPS, COUNT = 3, 4, 3, 20_000
MASKED = {"linear": lambda t: t, "cosine": lambda t: math.sin(t * math.pi / 2)}
TABLE = np.random.default_rng(0).normal(size=((K + 1) ** N, N, K))
PLACE = (K + 1) ** np.arange(N)[::-1]
TREND = 2.0 * np.arange(K)  # What the model says depends on the time as well.


def denoise(z, t):
  logits = jnp.asarray(TABLE)[z @ PLACE] + t[:, None, None] * TREND
  return jax.nn.log_softmax(logits.astype(jnp.float32))


def uniform_model(k=K):
  return Model(lambda z, t: jnp.full((*z.shape, k), -math.log(k)))


@functools.cache
def law(schedule):
  """The T-step chain, by enumeration of what each step may reveal."""
  masked, grid = MASKED[schedule], [1 - i / STEPS for i in range(STEPS + 1)]
  states = {(K,) * N: 1.0}
  for t, s in itertools.pairwise(grid):
    stay, after = masked(s) / masked(t), {}
    for z, prob in states.items():
      p = np.exp(TABLE[np.dot(z, PLACE)] + t * TREND)
      p /= p.sum(-1, keepdims=True)
      choices = [
        [(v, 1.0)]
        if v < K
        else [(K, stay), *((j, (1 - stay) * p[i, j]) for j in range(K))]
        for i, v in enumerate(z)
      ]
      for choice in itertools.product(*choices):
        new = tuple(v for v, _ in choice)
        odds = prob * math.prod(q for _, q in choice)
        after[new] = after.get(new, 0.0) + odds
    states = after
  array = np.zeros([K] * N)
  for z, prob in states.items():
    if K not in z:  # With probability 0.
      array[z] = prob
  return array


@pytest.mark.parametrize("schedule", MASKED)
@pytest.mark.parametrize("sampler", [ancestral, events])
def test_the_law_is_that_of_the_chain(sampler, schedule, key):
  """Chi-square over all states: empty steps may be skipped."""
  prior = absorbing.Prior(K, schedule=schedule)
  ids = jax.jit(
    lambda k: sampler.sample(k, Model(denoise), prior, (COUNT, N), steps=STEPS)
  )(key)
  found = histogram(ids, K)
  assert chi_square(found, COUNT * law(schedule)) < 4
  other = law({"linear": "cosine", "cosine": "linear"}[schedule])
  assert chi_square(found, COUNT * other) > 10  # What it would notice.


def count(prior, b, n, steps, **options):
  """Network calls [b] of each image."""
  run = lambda key: events.calls(  # noqa: E731
    key, uniform_model(), prior, (b, n), steps=steps, **options
  )
  return np.asarray(jax.jit(run)(jax.random.key(1)))


@pytest.mark.parametrize(
  "schedule, n, steps",
  [("linear", 256, 256), ("cosine", 9, 50)],
)
def test_calls_are_the_steps_that_reveal(schedule, n, steps):
  """sum over steps of 1 - (1 - p)^n; 63% of them at T = n, n at most."""
  b, masked = 500, MASKED[schedule]
  shown = [1 - masked(1 - i / steps) for i in range(steps + 1)]
  expected = sum(1 - (1 - q + p) ** n for p, q in itertools.pairwise(shown))
  prior = absorbing.Prior(K, schedule=schedule)
  calls = count(prior, b, n, steps)
  assert calls.shape == (b,) and calls.max() <= min(n, steps)
  assert abs(calls.mean() - expected) < 4 * calls.std() / math.sqrt(b)
  if n == steps:
    assert expected / steps == pytest.approx(1 - math.exp(-1), abs=1e-3)


def test_the_network_is_called_as_often_as_it_is_told(key):
  """Without compiling, the loop can be watched: it ends with the image that
  needs most calls, and each is told the times of its own events."""
  times = []

  def watched(z, t):
    times.append(np.asarray(t))
    return jnp.full((*z.shape, K), -math.log(K))

  prior, steps, shape = absorbing.Prior(K), 6, (3, 5)
  known = jnp.array([[K] * 5, [1, K, K, 2, 1], [0] * 5])
  with jax.disable_jit():
    run = events.run(
      key, Model(watched), prior, shape, steps=steps, known=known
    )
  calls, states = np.asarray(run.calls), np.asarray(run.states)
  assert len(times) == calls.max() and calls[2] == 0
  revealing = (states[1:] != states[:-1]).any(-1)  # [steps b]
  np.testing.assert_array_equal(revealing.sum(0), calls)
  for image in range(3):
    told = [t[image] for t in times[: calls[image]]]
    expected = 1 - np.flatnonzero(revealing[:, image]) / steps
    np.testing.assert_allclose(told, expected, atol=1e-6)
  np.testing.assert_array_equal(states[0], known)
  np.testing.assert_array_equal(states[-1], run.ids)


def test_an_image_does_not_depend_on_its_batch(key):
  """As the pipeline asks: batches of one, mapped, each with its own loop."""
  prior, keys = absorbing.Prior(K), jax.random.split(key, 6)
  one = lambda k: events.sample(k, Model(denoise), prior, (1, N), steps=9)  # noqa: E731
  together = jax.jit(jax.vmap(one))(keys)
  alone = jax.jit(one)
  np.testing.assert_array_equal([alone(k) for k in keys], together)


def test_a_chain_that_revises_is_refused(key):
  """Before anything is drawn, also under jit; a ratio of masks is none."""
  for name in ("alpha1", "mixture", "linear"):
    prior = vq_diffusion.Prior(K, schedule=name, time_steps=8)
    section = {"name": "events", "steps": 4}
    draw = pipeline.build_sampler(section, prior)
    run = lambda k: draw(k, uniform_model(), prior, (2, 5))  # noqa: B023, E731
    if name == "linear":
      assert (jax.jit(run)(key) < K).all()
      continue
    with pytest.raises(ValueError, match=r"masks every token.*'ancestral'"):
      jax.eval_shape(run, key)
  with pytest.raises(ValueError, match="at least 1 step"):
    events.sample(key, uniform_model(), prior, (1, 4), steps=0)


def test_a_budget_is_a_schedule(key):
  """S calls, of the counts that are asked for."""
  args = (Model(denoise), absorbing.Prior(K), (50, N))
  options = {"steps": 2, "schedule": (1, 3)}

  @jax.jit
  def both(key):
    few = fewer_tokens.trajectory(key, *args, **options)
    return events.run(key, *args, **options), few

  run, few = both(key)
  np.testing.assert_array_equal(run.states, few)
  assert ((np.asarray(run.states)[1] == K).sum(-1) == 3).all()
  assert (run.calls == 2).all()
