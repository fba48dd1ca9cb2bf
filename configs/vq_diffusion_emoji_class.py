"""Class-conditional Improved VQ-Diffusion over the 8x8 emoji tokens.

  python -m vq_jax.main --mode=train \
    --config=configs/vq_diffusion_emoji_class.py --workdir=runs/emoji32/class
"""

import ml_collections

from configs import emoji32_absorbing, vq_diffusion_emoji_text


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Categories and styles of the emoji as classes."""
  c = emoji32_absorbing.get_config(arg)
  vq_diffusion_emoji_text.condition(c)
  return c


def sweep(add):
  """Steps of the chain that samples (arXiv:2205.16007, table 2)."""
  for steps in (5, 10, 25, 50, 100):
    add({"sampler.steps": steps})
