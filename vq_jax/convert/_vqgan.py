"""What the converters of tokenizers share."""

from typing import Any

import jax
import jax.numpy as jnp


def abstract(module: Any) -> Any:
  """The tree that a tokenizer `module` needs, not computed."""
  image = jnp.zeros((1, module.factor, module.factor, module.image_channels))
  return jax.eval_shape(module.init, jax.random.key(0), image)["params"]
