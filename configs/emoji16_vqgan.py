"""VQGAN f4 for the embedded emoji at 16x16, for experiments of minutes.

  python -m vq_jax.main --mode=train --config=configs/emoji16_vqgan.py \
    --workdir=runs/emoji16/tokenizer
  python -m vq_jax.main --mode=tokenize --config=configs/emoji16_vqgan.py \
    --workdir=runs/emoji16/tokenizer
"""

import ml_collections

from configs import emoji32_vqgan


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """4x4 tokens of 64 codes: emoji32_vqgan with a quarter of the pixels."""
  c = emoji32_vqgan.get_config(arg)
  c.data.size = 16
  if arg != "smoke":
    c.tokenizer.image_size = 16
  return c
