"""The likelihood head of the quickstart's tokenizer, and nothing else of it.

  python -m vq_jax.main --mode=train --config=configs/emoji32_likelihood.py \
    --workdir=runs/emoji32/likelihood
  python -m vq_jax.main --mode=tokenize --workdir=runs/emoji32/likelihood
  python -m vq_jax.main --mode=evaluate --workdir=runs/emoji32/prior \
    --config=configs/emoji32_absorbing.py \
    --config.evaluate.head=runs/emoji32/likelihood/tokens
"""

import ml_collections

from configs import emoji32_vqgan


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Minutes: the encoder and the decoder only run forwards."""
  c = emoji32_vqgan.get_config(arg)
  c.stage = "likelihood"
  c.init_from = "runs/emoji32/tokenizer"
  c.tokenizer.logsigma = True
  del c.revive_after
  # levels=32 and dequantize=False are arXiv:2111.12701, as released.
  c.loss = dict(levels=256, dequantize=True)
  c.optimizer = dict(
    lr=2e-3,
    warmup_steps=20,
    decay="cosine",
    clip_norm=1.0,
    only="logsigma",
  )
  c.keep = dict(latest=2, best="validation/bits_per_dim", mode="min")
  if arg != "smoke":
    c.steps, c.batch = 400, 16
    c.every = dict(log=20, evaluate=200, save=200)
  return c
