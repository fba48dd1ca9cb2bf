"""Class-conditional absorbing diffusion over the tokens of emoji64_vqgan.

  python -m vq_jax.main --mode=train --config=configs/emoji64_absorbing.py \
    --workdir=runs/emoji64/prior
"""

import ml_collections

from configs import emoji32_absorbing, emoji64_vqgan


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """12 layers of 384; classifier-free guidance at sampling."""
  c = emoji32_absorbing.get_config(arg)
  if arg == "smoke":
    return c
  tokenizer = emoji64_vqgan.get_config(arg).tokenizer
  c.steps = 50_000
  c.batch = 128
  c.data.path = "runs/emoji64/tokenizer/tokens"
  c.prior.update(vocab_size=tokenizer.vocab_size, time_steps=16 * 16)
  c.net.update(
    vocab_size=tokenizer.vocab_size,
    grid=(16, 16),
    layers=12,
    width=384,
    heads=6,
    remat=True,
  )
  c.condition.dropout = 0.1
  c.optimizer.update(lr=5e-4, warmup_steps=1000)
  c.ema.decay = 0.9999
  c.sampler.steps = 256
  c.sample.update(count=2048, guidance=1.0, temperature=1.0, stride=4)
  c.every.update(log=100, evaluate=5000, save=5000)
  return c


def sweep(add):
  """Quality against guidance and steps."""
  for guidance in (0.0, 0.5, 1.0, 2.0):
    for steps in (16, 64, 256):
      add({"sample.guidance": guidance, "sampler.steps": steps})
