"""Which sampler serves which prior: asked of the code, not written down."""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp

from vq_jax import pipeline, plugins
from vq_jax.types import Array, Model

K, CANVAS, DIM = 4, (2, 3), 2  # Of what is asked for.
# What samplers have no default of.
OPTIONS = {"steps": 2, "critic": lambda ids: jnp.zeros(ids.shape)}


def sections() -> dict[str, dict[str, Any]]:
  """Every prior, with its own defaults, as config.prior."""
  names = plugins.available("priors")
  return {name: {"name": name, "vocab_size": K} for name in names}


def options(name: str) -> dict[str, Any]:
  """config.sampler of that name, with no more than it must have."""
  wanted = inspect.signature(plugins.resolve("samplers", name).sample)
  return {"name": name} | {
    key: value for key, value in OPTIONS.items() if key in wanted.parameters
  }


def stand_in(prior: Any) -> Model:
  """A model that knows nothing, of ids or of embeddings."""

  def denoise(z: Array, t: Array) -> Array:
    return jnp.full((*z.shape[:2], K), -math.log(K))

  embedded = getattr(prior, "embedded", False)
  return Model(denoise, jnp.ones((K + 1, DIM)) if embedded else None)


def lacks(name: str, prior: Any) -> tuple[str, ...]:
  """What the sampler of that name calls and the prior has not."""
  needs = plugins.resolve("samplers", name).NEEDS
  return tuple(need for need in needs if not hasattr(prior, need))


def verdict(name: str, prior: Any) -> str:
  """ "yes", or why the sampler of that name cannot draw from the prior.

  It is traced, and nothing is compiled.
  """

  def run() -> Array:
    draw = pipeline.build_sampler(options(name), prior, canvas=CANVAS)
    shape = (1, math.prod(CANVAS))
    return draw(jax.random.key(0), stand_in(prior), prior, shape)

  try:
    jax.eval_shape(run)
  except ValueError as refusal:
    return str(refusal)
  return "yes"


def pairs() -> dict[tuple[str, str], str]:
  """(sampler, prior) -> "yes" or the reason of the refusal."""
  return {
    (name, label): verdict(name, pipeline.build_prior(section))
    for name in plugins.available("samplers")
    for label, section in sections().items()
  }
