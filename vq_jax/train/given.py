"""Stage 1 where there is nothing to train: a tokenizer that is given, a font.

--mode=tokenize needs no checkpoint then, and --mode=train is refused.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jax.sharding import Mesh

from vq_jax import evaluate, pipeline, plugins
from vq_jax.train import vqgan
from vq_jax.types import Key, Params

Config = Mapping[str, Any]


def make_task(config: Config) -> NoReturn:
  """ValueError: there is no task."""
  raise ValueError(
    f"The tokenizer {config['tokenizer']['name']!r} has nothing to train; go on"
    " with --mode=tokenize."
  )


def initial(config: Config) -> Callable[[Key], Params]:
  """Key -> the weights, which do not depend on it.

  Raises:
    ValueError: the tokenizer's weights are made by training.
  """
  if not getattr(pipeline.build_tokenizer(config["tokenizer"]), "given", False):
    raise ValueError(
      "config.stage = 'given' is for tokenizers that have nothing to train; the"
      f" tokenizer {config['tokenizer']['name']!r} has: take stage = 'vqgan'."
    )
  return vqgan.initial(config)


def measure(
  config: Config, workdir: pathlib.Path, mesh: Mesh, params: Params
) -> dict[str, float]:
  """What of the validation images is lost, and which codes are in use."""
  del workdir, mesh
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  source = plugins.build(
    "data", "source", config["data"], "config.data", "validation"
  )
  size = {"vocab_size": tokenizer.prior_vocab_size}
  batches = evaluate.reconstructions(
    tokenizer, params, source, config["evaluate"]["batch"]
  )
  return evaluate.fold({"l1": {}, "codebook": size}, batches)
