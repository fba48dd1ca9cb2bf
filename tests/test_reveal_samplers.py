"""Samplers that reveal tokens for good: where, when, how many, and the law."""

import itertools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joints import chi_square, even, exact_model, histogram, law_of

from vq_jax import models, pipeline, transitions
from vq_jax.priors import absorbing
from vq_jax.samplers import fewer_tokens, purity
from vq_jax.types import Model

BOTH = pytest.mark.parametrize("module", [fewer_tokens, purity])
K = 5


def uniform_model(k=K):
  return Model(lambda z, t: jnp.full((*z.shape, k), -math.log(k)))


@BOTH
@pytest.mark.parametrize("n, steps", [(16, 5), (7, 3), (5, 12), (6, 6)])
def test_each_call_reveals_its_share_once(module, n, steps, key):
  """m / steps tokens a call, up or down, of the m masks of each image."""
  known = np.where(np.arange(n) < np.array([[0], [2], [n - 1], [n]]), 1, K)
  states = module.trajectory(
    key,
    uniform_model(),
    absorbing.Prior(K),
    known.shape,
    steps=steps,
    known=jnp.asarray(known),
  )
  states = np.asarray(states)  # [steps+1 4 n]
  np.testing.assert_array_equal(states[0], known)
  masks = (states == K).sum(-1)
  share = masks[0] / steps
  for revealed in masks[:-1] - masks[1:]:
    assert (np.floor(share) <= revealed).all()
    assert (revealed <= np.ceil(share)).all()
  assert (masks[-1] == 0).all()
  changes = (states[1:] != states[:-1]).sum(0)
  np.testing.assert_array_equal(changes, known == K)


@BOTH
@pytest.mark.parametrize("schedule", ["cosine", (1, 0, 2, 9)])
def test_each_call_reveals_what_the_schedule_says(module, schedule, key):
  """Counts as given; in images with fewer masks in proportion."""
  known = jnp.where(jnp.arange(12) < jnp.array([[0], [6], [12]]), 1, K)
  states = module.trajectory(
    key,
    uniform_model(),
    absorbing.Prior(K),
    known.shape,
    steps=4,
    known=known,
    schedule=schedule,
  )
  masks = (np.asarray(states) == K).sum(-1)  # [5 3]
  # 12 cos(pi i / 8) = 11.1, 8.5, 4.6, 0.
  whole = [12, 11, 8, 4, 0] if schedule == "cosine" else [12, 11, 11, 9, 0]
  np.testing.assert_array_equal(masks[:, 0], whole)
  np.testing.assert_array_equal(masks[:, 1], np.round(np.array(whole) / 2))
  assert (masks[:, 2] == 0).all()


@BOTH
@pytest.mark.parametrize("time_steps", [None, 4])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_network_is_told_the_time_of_the_masked_share(
  module, time_steps, schedule, key
):
  """A model that says the time it was told writes it into each token."""
  n, seen = 8, 3
  steps = time_steps or n
  ratio = {"linear": lambda t: t, "cosine": lambda t: math.sin(t * math.pi / 2)}
  grid = [(i + 1) / steps for i in range(steps)]
  expected = [
    min(range(steps), key=lambda i: abs(left / n - ratio[schedule](grid[i])))
    for left in range(1, n - seen + 1)
  ]

  def denoise(z, t):
    token = jnp.round(t * steps).astype(int) - 1
    said = jax.nn.one_hot(token, n)[:, None]
    return jnp.broadcast_to(1e6 * (said - 1.0), (*z.shape, n))

  prior = absorbing.Prior(n, schedule=schedule, time_steps=time_steps)
  known = jnp.where(jnp.arange(n) < seen, 0, n)[None]
  ids = module.sample(
    key, Model(denoise), prior, (1, n), steps=n - seen, known=known
  )
  np.testing.assert_array_equal(np.sort(ids[0, seen:]), np.sort(expected))


@BOTH
def test_a_prior_that_does_not_end_in_masks_is_refused(module, key):
  kernel = lambda t: transitions.Kernel(1.0 - t, 0.1 * t, 0.9 * t)  # noqa: E731
  prior = types.SimpleNamespace(kernel=kernel, vocab_size=K, time_steps=None)
  run = lambda k: module.sample(k, uniform_model(), prior, (1, 4), steps=2)  # noqa: E731
  with pytest.raises(ValueError, match=r"ends in masks; .* masks 90%"):
    jax.jit(run)(key)


@BOTH
def test_impossible_options_are_refused(module, key):
  prior = absorbing.Prior(K)
  with pytest.raises(ValueError, match="at least 1 step"):
    module.sample(key, uniform_model(), prior, (1, 4), steps=0)
  for schedule, told in (
    ("cosin", "Did you mean 'cosine'"),
    ("optimal", "a trained model's losses"),
    ((4,), "2 counts"),
    ((0, 0), "2 counts"),
    ((5, -1), "2 counts"),
  ):
    with pytest.raises(ValueError, match=told):
      module.sample(
        key, uniform_model(), prior, (1, 4), steps=2, schedule=schedule
      )
  if module is purity:
    with pytest.raises(ValueError, match="r must be at least 0"):
      module.sample(key, uniform_model(), prior, (1, 4), steps=2, r=-1.0)
  section = {"name": module.__name__.split(".")[-1], "steps": 2}
  for what in ("sample", "trajectory"):
    pipeline.build_sampler(section, prior, what)
    with pytest.raises(ValueError, match="Did you mean 'steps'"):
      pipeline.build_sampler({**section, "step": 2}, prior, what)


@BOTH
def test_a_compiled_sample_keeps_no_states(module):
  """States that nobody asked for take no memory."""

  def run(key):
    prior = absorbing.Prior(K)
    return module.sample(key, uniform_model(), prior, (1, 64), steps=1000)

  compiled = jax.jit(run).lower(jax.random.key(0)).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 1000 * 64 * 4 / 2


def eq_11(r, normalise):
  """p -> softmax((1 + r purity) log p)."""

  def adjust(p):
    purity = p.max(1, keepdims=True)
    if normalise:
      purity = purity / purity.max()
    power = p ** (1.0 + r * purity)
    return power / power.sum(1, keepdims=True)

  return adjust


ALIKE = lambda p: np.ones(len(p))  # noqa: E731
PURE = lambda p: p.max(1)  # noqa: E731
JOINT = np.random.default_rng(0).dirichlet(np.full(16, 0.5)).reshape([2] * 4)
COUNT = 20_000


def drawn(module, joint, key, **options):
  """How often each state comes up."""
  ids = module.sample(
    key,
    exact_model(joint),
    absorbing.Prior(joint.shape[0]),
    (COUNT, joint.ndim),
    **options,
  )
  return histogram(ids, joint.shape[0])


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_random_positions_have_the_enumerated_law(steps, key):
  """Chi-square over all states; with a token a call the law is the truth."""
  law = law_of(JOINT, even(4, steps), ALIKE, lambda p: p)
  assert (
    chi_square(drawn(fewer_tokens, JOINT, key, steps=steps), COUNT * law) < 4
  )
  if steps == 4:
    np.testing.assert_allclose(law, JOINT, atol=1e-12)


def test_counts_have_the_enumerated_law(key):
  """One token first, then three together."""
  law = law_of(JOINT, (1, 3), ALIKE, lambda p: p)
  found = drawn(fewer_tokens, JOINT, key, steps=2, schedule=(1, 3))
  assert chi_square(found, COUNT * law) < 4
  even_law = law_of(JOINT, (2, 2), ALIKE, lambda p: p)
  assert chi_square(found, COUNT * even_law) > 10  # Told apart.


@pytest.mark.parametrize(
  "steps, r, normalise",
  [(2, 0.0, False), (2, 1.0, False), (2, 1.0, True), (4, 0.0, True)],
)
def test_pure_positions_have_the_enumerated_law(steps, r, normalise, key):
  """Without sharpening, a token a call is again drawn from the truth."""
  law = law_of(JOINT, even(4, steps), PURE, eq_11(r, normalise))
  options = {"steps": steps, "r": r, "normalise": normalise}
  assert chi_square(drawn(purity, JOINT, key, **options), COUNT * law) < 4
  if steps == 4:
    np.testing.assert_allclose(law, JOINT, atol=1e-12)


def test_fewer_tokens_a_call_come_closer_to_the_truth(key):
  """Total variation falls with Delta_z = 4, 2, 1, down to the noise."""
  far = []
  for steps in (1, 2, 4):
    found = drawn(fewer_tokens, JOINT, key, steps=steps)
    far.append(0.5 * np.abs(found / COUNT - JOINT).sum())
  # Of each frequency the mean error is sqrt(2 p (1 - p) / (pi COUNT)).
  noise = np.sqrt(JOINT * (1 - JOINT) / (2 * math.pi * COUNT)).sum()
  assert far[0] > far[1] + noise > far[2] + 2 * noise
  assert far[2] < 2 * noise


def test_purity_draws_less_together_than_chance(key):
  """Four groups of eight equal tokens, two tokens a call. A group goes wrong
  when its first two come in one call and differ, 7 times of 8; what a group
  has shown makes its others sure, so that they come before a new group."""
  k, m, size, count = 8, 4, 8, 4000
  n = m * size

  def denoise(z, t):
    del t
    seen = jax.nn.one_hot(z, k).reshape(-1, m, size, k).sum(2)  # [b m k]
    none = seen.sum(-1, keepdims=True) == 0
    seen = jnp.where(none, 1.0, seen)
    law = jnp.log(seen / seen.sum(-1, keepdims=True) + 1e-30)
    return jnp.repeat(law, size, 1)

  def wrong(module, **options):
    prior, model = absorbing.Prior(k), Model(denoise)
    ids = module.sample(key, model, prior, (count, n), steps=n // 2, **options)
    groups = np.asarray(ids).reshape(count, m, size)
    return (groups != groups[..., :1]).any(-1).mean(1)  # [count]

  random, pure = wrong(fewer_tokens), wrong(purity, r=0.0)
  sigma = math.sqrt((random.var() + pure.var()) / count)
  assert random.mean() - pure.mean() > 6 * sigma
  # At random: the first two of a group at ranks j and j + 1 of n, j odd.
  ranks = range(1, n - size + 2, 2)
  together = sum(math.comb(n - j - 1, size - 2) for j in ranks)
  expected = 7 / 8 * together / math.comb(n, size)
  sigma = random.std() / math.sqrt(count)
  assert abs(random.mean() - expected) < 4 * sigma


def test_purity_is_not_always_the_better_order():
  """Three pairs of equal bits, two tokens a call: it spends its calls on mates
  of what is seen, which no order can get wrong, and so meets whole pairs late
  that chance would have split. (arXiv:2205.16007 claims no theorem.)"""
  joint = np.full([2] * 6, 1e-12)  # Reached by mistake, all are as likely.
  for bits in itertools.product(range(2), repeat=3):
    joint[tuple(np.repeat(bits, 2))] = 1 / 8
  wrong = [
    law_of(joint, even(6, 3), weigh, lambda p: p)[joint < 0.1].sum()
    for weigh in (ALIKE, PURE)
  ]
  assert wrong[0] < 0.95 * wrong[1]


@BOTH
def test_guided_and_truncated_in_one_call_of_a_double_batch(module, key):
  """Tokens follow p(given) (p(given) / p(free))^s, cut to the likely ones."""
  given = np.array([0.4, 0.3, 0.2, 0.1])
  free = np.array([0.1, 0.4, 0.2, 0.3])
  b, n, scale, calls = 500, 16, 1.0, []

  def denoise(z, t):
    calls.append(z.shape)
    both = jnp.log(jnp.stack([given, free]))
    return jnp.broadcast_to(jnp.repeat(both, b, 0)[:, None], (2 * b, n, 4))

  model = models.guide(Model(denoise), scale)
  model = models.truncate(model, top_k=2)
  options = {"r": 0.0} if module is purity else {}
  prior = absorbing.Prior(4)
  ids = module.sample(key, model, prior, (b, n), steps=4, **options)
  assert calls == [(2 * b, n)]
  law = given * (given / free) ** scale
  law = np.where(law >= np.sort(law)[-2], law, 0.0)
  found = np.array([(ids == i).sum() for i in range(4)])
  assert (found[law == 0] == 0).all()
  assert chi_square(found, b * n * law / law.sum()) < 4
