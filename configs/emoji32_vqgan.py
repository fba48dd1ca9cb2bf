"""VQGAN f4 for the embedded emoji at 32x32: the tokenizer of the quickstart.

  python -m vq_jax.main --mode=train --config=configs/emoji32_vqgan.py \
    --workdir=runs/emoji32/tokenizer
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """8x8 tokens of 512 codes; `:smoke` is seconds of plumbing."""
  smoke = arg == "smoke"
  c = ml_collections.ConfigDict()
  c.stage = "vqgan"
  c.seed = 0
  c.steps = 8 if smoke else 3000
  c.batch = 8 if smoke else 32

  if smoke:
    c.data = dict(name="synthetic", size=16)
  else:
    c.data = dict(name="emoji", size=32)
  c.splits = (
    ("train", "validation") if smoke else ("train", "validation", "heldout")
  )
  c.flip = True

  c.tokenizer = dict(
    name="vqgan",
    image_size=16 if smoke else 32,
    channels=8 if smoke else 32,
    multipliers=(1, 2) if smoke else (1, 2, 4),
    blocks=1,
    attention=(8,),
    groups=4 if smoke else 16,
    latent_dim=8 if smoke else 64,
    code_dim=8 if smoke else 16,
    vocab_size=16 if smoke else 512,
  )
  c.loss = dict(l1=1.0, l2=0.0, commitment=0.25, lpips_weights="")
  c.revive_after = 100  # Updates; 0 never revives a code.
  c.optimizer = dict(
    lr=1e-3, warmup_steps=100, decay="cosine", b1=0.9, b2=0.99, clip_norm=1.0
  )
  c.ema = dict(decay=0.999, every=1, warmup=True)

  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.every = dict(log=20, evaluate=500, save=500)
  c.keep = dict(latest=2, best="validation/psnr_db", mode="max")
  c.evaluate = dict(batch=8 if smoke else 64, limit=10_000, features="emoji")
  if smoke:
    c.every = dict(log=2, evaluate=4, save=4)
  return c


def sweep(add):
  """Reconstruction against the size of the codebook."""
  for vocab_size in (128, 512, 2048):
    add({"tokenizer.vocab_size": vocab_size})
