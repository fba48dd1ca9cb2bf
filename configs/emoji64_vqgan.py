"""VQGAN f4 for the embedded emoji at 64x64: for an accelerator or a long night.

  python -m vq_jax.main --mode=train --config=configs/emoji64_vqgan.py \
    --workdir=runs/emoji64/tokenizer
"""

import ml_collections

from configs import emoji32_vqgan


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """16x16 tokens of 1024 codes; `:smoke` is that of emoji32_vqgan."""
  c = emoji32_vqgan.get_config(arg)
  if arg == "smoke":
    return c
  c.steps = 30_000
  c.batch = 64
  c.data.size = 64
  c.tokenizer.update(
    image_size=64,
    channels=64,
    multipliers=(1, 2, 4),
    blocks=2,
    attention=(16,),
    groups=32,
    decoder_extra=1,
    latent_dim=128,
    code_dim=64,
    vocab_size=1024,
    quantizer_options=dict(commitment=0.25),
  )
  c.revive_after = 50
  c.optimizer.update(lr=4e-4, warmup_steps=1000)
  c.every = dict(log=100, evaluate=2000, save=2000)
  return c


def sweep(add):
  """Reconstruction against the size of the codebook."""
  for vocab_size in (256, 1024, 4096):
    add({"tokenizer.vocab_size": vocab_size})
