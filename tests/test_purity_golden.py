"""The released sampling of Improved VQ-Diffusion, on its recorded noise."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax.priors import absorbing, vq_diffusion
from vq_jax.samplers import _reveal, fewer_tokens, purity
from vq_jax.types import Model

GOLDEN = pathlib.Path(__file__).parent / "golden"
TO_REVEAL = 11  # A step of the psample cases at t > 0.


def load(case):
  return np.load(GOLDEN / f"{case}.npz")


def table(g):
  """The cases' denoiser: logits W[z_i] + P_i, blind to time."""
  w, p = jnp.asarray(g["W"]), jnp.asarray(g["P"]).T

  def denoise(z, t):
    del t
    return jax.nn.log_softmax(w[z] + p)

  return Model(denoise)


def codes(array):
  """[b K+1 n] -> [b n K]: the last row, the mask, has probability e^-70."""
  return jnp.asarray(array[:, :-1].transpose(0, 2, 1))


def token_noise(g):
  """Gumbel noise [b n K] from the recorded uniform draws."""
  return -jnp.log(-jnp.log(codes(g["uniform_noise"]) + 1e-30) + 1e-30)


def released_rule(rule, log_probs):
  if rule == 1:
    return fewer_tokens.rule(log_probs)
  weights = purity.log_purity(log_probs, normalise=True)
  return weights, purity.sharpen(log_probs, jnp.exp(weights), r=1.0)


@pytest.mark.parametrize("rule", [1, 2])
def test_a_released_step_is_replayed(rule):
  """Weights, sharpened logits, chosen positions and tokens, image by image."""
  g = load(f"vqd_psample_rule{rule}")
  z, count = jnp.asarray(g["x"], jnp.int32), TO_REVEAL - g["sampled_in"]
  log_probs = table(g).denoise(z, None)
  tolerance = {"rtol": 1e-4, "atol": 1e-4}
  np.testing.assert_allclose(log_probs, codes(g["log_x0"]), **tolerance)

  log_weights, log_probs = released_rule(rule, log_probs)
  expected = codes(g["adjusted_log_prob"])
  np.testing.assert_allclose(log_probs, expected, **tolerance)
  masked = z == g["P"].shape[0]
  weights = jnp.where(masked, jnp.exp(log_weights), 0.0)
  expected = np.stack([g["purity_masked_0"], g["purity_masked_1"]])
  np.testing.assert_allclose(weights, expected, **tolerance)

  # Drawn there as the n largest of p / e with exponential noise e.
  noise = np.stack([g["multinomial_exp_0"], g["multinomial_exp_1"]])
  where = -jnp.log(jnp.asarray(noise))
  out = _reveal.reveal(
    z, log_weights, log_probs, jnp.asarray(count), where, token_noise(g)
  )
  for image in range(2):
    changed = np.flatnonzero(out[image] != z[image])
    np.testing.assert_array_equal(changed, np.sort(g[f"sel_{image}"]))
  np.testing.assert_array_equal(out, g["x_out"])


def test_the_last_released_step_reveals_what_is_left():
  """At t = 0 tokens come from log p(x | z) as it is, everywhere; we do the same
  to masks, however many are asked for, and let the others be."""
  g = load("vqd_psample_rule2_t0")
  z = jnp.asarray(g["x"], jnp.int32)
  log_probs = table(g).denoise(z, None)
  expected = codes(g["adjusted_log_prob"])
  np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-4)
  log_weights, _ = released_rule(2, log_probs)
  where = jax.random.gumbel(jax.random.key(0), z.shape)
  count = jnp.full(2, z.shape[1])
  out = _reveal.reveal(z, log_weights, log_probs, count, where, token_noise(g))
  masked = np.asarray(z == g["P"].shape[0])
  np.testing.assert_array_equal(out, np.where(masked, g["x_out"], z))


@pytest.mark.parametrize(
  "case, ends, between",
  # The tables of 50 and 25 steps draw 10 and 21 tokens of 1024 later than the
  # chain does: half a step, more in the first and less in the last.
  [("T100_N16", 1, 1), ("T50_N64", 10, 1), ("T25_N1024", 21, 2)],
)
def test_released_counts_follow_the_masked_fraction(case, ends, between):
  """n_t = N_{t-1} - N_t with N_t = round(L (1 - cbar_t)), L = 1024."""
  released = load(f"vqd_schedule_{case}")["n_sample"]
  steps, length = len(released), 1024
  prior = vq_diffusion.Prior(16, time_steps=steps)
  _, masked = _reveal.clock(prior, length)
  revealed = np.round(length * (1.0 - np.append(0.0, masked)))
  apart = np.abs(revealed[:-1] - revealed[1:] - released)
  assert apart[1:-1].max() <= between
  assert apart[[0, -1]].max() <= ends


def uniform_model(k):
  return Model(lambda z, t: jnp.full((*z.shape, k), -math.log(k)))


@pytest.mark.parametrize("case, steps", [("T100", 99), ("T100_ps5", 198)])
@pytest.mark.parametrize("rule", ["rule1_w0", "rule2_w1"])
def test_counts_along_a_released_run(case, steps, rule, key):
  """After as many network calls as many tokens, +-1; ps5 reveals at most 5 a
  call. The last released call, at t = 0, finds nothing left to reveal."""
  g = load(f"vqd_trajectory_{case}")
  calls = np.cumsum(g[f"calls_{rule}"])
  assert calls[-1] == steps + 1
  states = fewer_tokens.trajectory(
    key, uniform_model(2), absorbing.Prior(2), (1, 1024), steps=steps
  )
  counts = np.sum(np.asarray(states) < 2, -1)  # [steps + 1, 1]
  assert np.abs(counts[calls[:-1]] - g[f"counts_{rule}"][:-1]).max() <= 1


@pytest.mark.parametrize(
  "rule, module, options",
  [
    ("rule1_w0", fewer_tokens, {}),
    ("rule2_w1", purity, {"r": 1.0, "normalise": True}),
  ],
)
def test_tokens_after_a_released_run(rule, module, options, key):
  """The same shares of tokens as in 8 released images of 1024.

  At its t = 0 the released code draws every token anew from p(x | z).
  """
  g = load("vqd_trajectory_T100")
  model, k = table(g), g["P"].shape[0]
  prior = vq_diffusion.Prior(k)
  images = 8
  ids = module.sample(key, model, prior, (images, 1024), steps=99, **options)
  log_probs = model.denoise(ids, None)
  ids = np.asarray(jax.random.categorical(jax.random.key(1), log_probs))
  ours = np.stack([(ids == i).mean() for i in range(k)])
  theirs = g[f"final_hist_{rule}"][:, :k].sum(0) / (8 * 1024)
  sigma = np.sqrt(theirs * (1 - theirs) * (1 / 8 + 1 / images) / 1024)
  assert (np.abs(ours - theirs) < 4 * sigma).all()
  best = np.argmax(g["W"][k] + g["P"].T, -1)
  agree, released = (ids == best).mean(), g[f"final_agree_{rule}"].mean()
  sigma = math.sqrt(0.25 * (1 / 8 + 1 / images) / 1024)
  assert abs(agree - released) < 4 * sigma
