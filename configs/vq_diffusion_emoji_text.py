"""Text-conditional Improved VQ-Diffusion over the 8x8 emoji tokens.

  python -m vq_jax.main --mode=train \
    --config=configs/vq_diffusion_emoji_text.py --workdir=runs/emoji32/text
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Captions such as "fluent crab"; the encoder reads bytes, no downloads."""
  c = emoji32_absorbing.get_config(arg)
  smoke = arg == "smoke"
  c.text = dict(
    name="learnt",
    length=32,
    dim=32 if smoke else 128,
    layers=1 if smoke else 2,
    heads=4,
    buckets=64 if smoke else 4096,
  )
  condition(c)
  if not smoke:  # Names take longer than classes.
    c.steps = 1500
    c.every.update(evaluate=1500, save=500)
  c.net.update(labels=0, text_dim=c.text.dim, pooled_text=True)
  c.sample.update(captions=(), split="validation", guidance=1.0)
  c.evaluate.agreement = ("validation", "heldout")
  return c


def condition(c: ml_collections.ConfigDict) -> None:
  """What the two VQ-Diffusion configs have in common."""
  c.prior = dict(
    name="vq_diffusion",
    vocab_size=c.prior.vocab_size,
    schedule="alpha1",
    time_steps=100,
    auxiliary=5e-4,
    adaptive=True,
    draw="importance",
    bound_times=20,
  )
  c.net.update(
    time="learnt",
    time_steps=100,
    position="row_column",
    activation="sigmoid",
  )
  c.condition = dict(dropout=0.1, null="learnt")
  c.sampler = dict(name="ancestral", steps=25)
  c.sample.guidance = 2.0


def sweep(add):
  """Guidance: caption agreement and diversity."""
  for guidance in (0.0, 1.0, 3.0, 5.0):
    add({"sample.guidance": guidance})
