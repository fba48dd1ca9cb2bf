"""MaskGIT's decoding: released runs replayed, counts, and the law of a run.

golden/maskgit_*.npz are what the released code computes, with its noise.
"""

import itertools
import math
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joints import chi_square, conditional, exact_model, histogram

from vq_jax import steps
from vq_jax.priors import absorbing
from vq_jax.samplers import confidence
from vq_jax.types import Model

GOLDEN = pathlib.Path(__file__).parent / "golden"


def load(case):
  return np.load(GOLDEN / f"maskgit_{case}.npz")


def table(g):
  """The cases' network: every token hears of all others."""
  w, p = jnp.asarray(g["W"]), jnp.asarray(g["P"])

  def denoise(z, t):
    del t
    return jax.nn.log_softmax(w[z] + p + 0.5 * w[z].mean(1, keepdims=True))

  return Model(denoise)


def test_rates_are_those_of_the_released_code():
  g = load("schedule")
  names = [name for name in g.files if name.count("_") == 1]
  assert len(names) == 18
  for name in names:
    method, n = name.split("_")
    found = steps.rate(method, g["ratio"].astype(float), np.array([[int(n)]]))
    np.testing.assert_allclose(np.ravel(found), g[name], rtol=1e-5, atol=2e-7)


def test_mask_counts_of_the_paper():
  """All but the last of each, after which the released code leaves one."""
  for calls, counts in (
    (8, [251, 236, 212, 181, 142, 97, 49]),
    # 256 cos(pi / 3) = 128, which float32 makes 127 in the released code.
    (12, [253, 247, 236, 221, 203, 181, 155, 128, 97, 66, 33]),
  ):
    table = steps.masks_left("cosine", 256, calls)
    assert table.shape == (257, calls)
    np.testing.assert_array_equal(table[256], [*counts, 0])


GAMMA = {
  "uniform": lambda r, n: 1 - r,
  "pow0.5": lambda r, n: 1 - math.sqrt(r),
  "pow3": lambda r, n: 1 - r**3,
  "cosine": lambda r, n: math.cos(math.pi * r / 2),
  "log": lambda r, n: -math.log2(r) / math.log2(n),
  "exp": lambda r, n: 1 - 2 ** (-math.log2(n) * (1 - r)),
  "arccos": lambda r, n: math.acos(r) / (math.pi / 2),
}


@pytest.mark.parametrize("name", GAMMA)
def test_mask_counts_are_those_of_the_released_loop(name):
  """m = max(1, min(masks - 1, floor(m_0 gamma))), in plain Python."""
  n = 40
  for calls in (1, 3, 11, 50):
    table = steps.masks_left(name, n, calls)
    assert (table[:, -1] == 0).all() and (table[0] == 0).all()
    for start in range(2, n + 1):
      left = start
      for i in range(1, calls):
        share = min(max(GAMMA[name](i / calls, start), 1e-6), 1.0)
        left = max(1, min(left - 1, math.floor(start * share + 1e-9)))
        assert table[start, i - 1] == left, (calls, start, i)


def recorded(key, what, where):
  """`jax.random.gumbel` of a run with that key, told what each call draws."""
  keys = jax.vmap(jax.random.split)(jax.random.split(key, len(what)))
  keys = jax.random.key_data(keys)  # [steps 2 2]
  stored = {
    what[0].shape: (keys[:, 1], what),
    where[0].shape: (keys[:, 0], where),
  }

  def draw(key, shape):
    of, noise = stored[shape]
    now = jnp.all(of == jax.random.key_data(key), -1)
    return jnp.asarray(noise)[jnp.argmax(now)]

  return draw


@pytest.mark.parametrize(
  ("case", "schedule", "heat"),
  [
    ("decode_cos", "cosine", 4.5),
    ("decode_pow_partial", "pow2", 1.0),
    ("decode_cos12_borderline", None, 4.5),
  ],
)
def test_released_runs_are_replayed(case, schedule, heat, key):
  """Every state of them, on their noise; the borderline case by its counts."""
  g = load(case)
  k, calls = g["W"].shape[1], len(g["mask_len"])
  counts = np.diff(-g["mask_len"][:-1, 0], prepend=-36, append=0)
  noise = recorded(key, g["token_gumbel"], g["choice_gumbel"])
  run = lambda key: confidence.trajectory(  # noqa: E731
    key,
    table(g),
    absorbing.Prior(k),
    g["inputs"].shape,
    steps=calls,
    known=jnp.asarray(g["inputs"]),
    schedule=schedule or tuple(counts),
    choice_temperature=heat,
  )
  with mock.patch.object(jax.random, "gumbel", noise):
    states = np.asarray(jax.jit(run)(key))
  released = g["cur_seqs"].swapaxes(0, 1)[:-1]
  np.testing.assert_array_equal(states[0], g["inputs"])
  np.testing.assert_array_equal(states[1:-1], released)
  np.testing.assert_array_equal((states[1:-1] == k).sum(-1), g["mask_len"][:-1])
  np.testing.assert_array_equal(states[-1], g["out"][:, -1])


@pytest.mark.parametrize(
  ("case", "heats"), [("topk", (0.0, 1.0, 4.5)), ("topk_h", (0.5, 2.0))]
)
def test_the_released_choice_is_replayed(case, heats):
  """Where the token that is drawn has the recorded probability."""
  g = load(case)
  known = np.isinf(g["probs"])
  log_probs = np.log(np.where(known, 1.0, g["probs"]))[..., None]
  z, choose = jnp.where(known, 0, 1), jax.jit(confidence.decide)
  for i, heat in enumerate(heats):
    left, where = g["mask_len"][:, 0], g[f"gumbel_{i}"]
    out = choose(z, log_probs, left, heat, 0.0, where)
    np.testing.assert_array_equal(out == 1, g[f"masking_{i}"])


K, COUNT = 2, 20_000
JOINT = np.random.default_rng(0).dirichlet(np.full(8, 0.5)).reshape([2] * 3)


def law(counts, heats, tempered):
  """By enumeration: all tokens of a call, then which of them are masked again,
  one after the other in proportion to p(token)^(-1 / heat)."""
  states = {(K,) * 3: 1.0}
  for count, heat in zip(counts, heats, strict=True):
    after = {}
    for z, prob in states.items():
      p = conditional(JOINT, z)
      masks = [i for i in range(3) if z[i] == K]
      drawn = p ** (1 / heat) if tempered else p
      drawn = drawn / drawn.sum(1, keepdims=True)
      for tokens in itertools.product(range(K), repeat=len(masks)):
        sure = {i: p[i, v] for i, v in zip(masks, tokens, strict=True)}
        odds = prob * math.prod(
          drawn[i, v] for i, v in zip(masks, tokens, strict=True)
        )
        # Gumbel-top-k of confidence keeps; the rest is masked again.
        for kept in itertools.permutations(masks, count):
          chance, left = odds, dict(sure)
          for i in kept:
            weights = {j: c ** (1 / heat) for j, c in left.items()}
            chance *= weights[i] / sum(weights.values())
            del left[i]
          new = list(z)
          for i, v in zip(masks, tokens, strict=True):
            new[i] = v if i in kept else K
          after[tuple(new)] = after.get(tuple(new), 0.0) + chance
    states = after
  array = np.zeros_like(JOINT)
  for z, prob in states.items():
    array[z] = prob
  return array


@pytest.mark.parametrize("tempered", [False, True])
def test_a_run_has_the_enumerated_law(tempered, key):
  """Counts 1, 1, 1 with noise that falls by thirds; at the end what is left is
  drawn, or is the mode."""
  args = (exact_model(JOINT), absorbing.Prior(K), (COUNT, 3))
  options = {"choice_temperature": 3.0, "anneal_tokens": tempered}
  run = lambda key: confidence.sample(  # noqa: E731
    key, *args, steps=3, schedule=(1, 1, 1), **options
  )
  found = histogram(jax.jit(run)(key), K)
  end = 1e-2 if tempered else 1.0  # The heat of the last call, which has no
  expected = law((1, 1, 1), (2.0, 1.0, end), tempered)  # choice to make.
  assert chi_square(found, COUNT * expected) < 4
  other = law((1, 1, 1), (4.0, 2.0, end), tempered)
  assert chi_square(found, COUNT * other) > 10


def test_calls_that_are_skipped_leave_the_others_as_they_are(key):
  """An edit starts late: fewer calls, the same counts after each."""
  n, k = 12, 5
  known = jnp.where(jnp.arange(n) < 4, 1, k)[None]
  model = Model(lambda z, t: jnp.full((*z.shape, k), -math.log(k)))
  states = confidence.trajectory(
    key,
    model,
    absorbing.Prior(k),
    (1, n),
    steps=6,
    known=known,
    skip=2,
  )
  counts = (np.asarray(states)[:, 0] == k).sum(-1)
  left = steps.masks_left("cosine", n, 6)[8]
  np.testing.assert_array_equal(counts, [8, *left[2:]])


def test_impossible_options_are_refused(key):
  model = Model(lambda z, t: jnp.zeros((*z.shape, K)))
  args = (key, model, absorbing.Prior(K), (1, 4))
  for options, message in (
    ({"steps": 0}, "at least 1 step"),
    ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ({"schedule": "pow"}, "Did you mean 'pow2'"),
    ({"schedule": "optimal"}, "a trained model's losses"),
    ({"schedule": (4,)}, "2 counts"),
    ({"skip": 2}, "must leave some of 2 steps"),
    ({"choice_temperature": -1.0}, "at least 0"),
  ):
    with pytest.raises(ValueError, match=message):
      confidence.sample(*args, **{"steps": 2} | options)
