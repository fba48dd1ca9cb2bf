"""What drawing costs, in calls of the network, is what the samplers say."""

import functools

import jax
import pytest

from configs import (
  emoji32_absorbing,
  emoji32_autoregressive,
  emoji32_lcmd,
  vq_diffusion_emoji_class,
)
from vq_jax import pipeline
from vq_jax.system import build_system, init_system
from vq_jax.train import sampling


def calls(module, sampler, **sample):
  """`sampling.network_calls` of a smoke config that draws so."""
  c = module.get_config("smoke")
  c.sample.update({"guidance": 0.0, "temperature": 1.0, **sample})
  if sampler:
    del c.sampler
    c.sampler = sampler
  if "code_dim" in c.net:
    c.net.code_dim = 2
  config = c.to_dict()
  system = build_system(config)
  params = jax.eval_shape(
    functools.partial(init_system, system), jax.random.key(0)
  )
  prior = pipeline.build_prior(config["prior"])
  return sampling.network_calls(config, system, prior, params)


@pytest.mark.parametrize(
  ("module", "sampler", "sample", "expected"),
  [
    (emoji32_absorbing, {"name": "ancestral", "steps": 5}, {}, 5),
    (
      emoji32_absorbing,
      {"name": "ancestral", "steps": 5},
      {"guidance": 2.0},
      10,
    ),
    (emoji32_absorbing, {"name": "confidence", "steps": 3}, {}, 3),
    (emoji32_absorbing, {"name": "corrector", "steps": 3}, {}, 6),
    # Four windows of 8x8 over 16x16.
    (
      emoji32_absorbing,
      {"name": "halton", "steps": 3},
      {"canvas": (16, 16), "stride": 8},
      12,
    ),
    (vq_diffusion_emoji_class, {"name": "purity", "steps": 4}, {}, 4),
  ],
)
def test_calls_are_those_of_the_docstrings(module, sampler, sample, expected):
  """Guided ones are two; a canvas takes one a window, less what they share."""
  found = calls(module, sampler, **sample)["network_calls"]
  assert found == pytest.approx(
    expected, rel=0.005 if "canvas" in sample else 0
  )


@pytest.mark.parametrize("name", ["ddim", "multistep"])
def test_a_solver_calls_once_more_at_its_end(name):
  """Besides, each step makes embeddings of probabilities, of few dimensions."""
  found = calls(emoji32_lcmd, {"name": name, "steps": 3})["network_calls"]
  assert 4.0 <= found < 4.5


def test_tokens_from_a_cache_are_shares_of_a_call():
  """All of them are one call, and the products of the first, empty one."""
  found = calls(emoji32_autoregressive, None)["network_calls"]
  assert 1.0 <= found < 1.2


def test_a_sampler_that_its_tokens_end_has_no_number():
  """`events` calls as often as something happens."""
  assert calls(emoji32_absorbing, {"name": "events", "steps": 8}) == {}
