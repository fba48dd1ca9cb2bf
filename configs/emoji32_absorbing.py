"""Absorbing diffusion over the 8x8 emoji tokens: the prior of the quickstart.

  python -m vq_jax.main --mode=train --config=configs/emoji32_absorbing.py \
    --workdir=runs/emoji32/prior

Here and in every config made of it, `:emoji16` asks for the 4x4 tokens of
configs/emoji16_vqgan.py, unguided, for tables whose rows take three minutes.
"""

import ml_collections

from configs import emoji16_vqgan, emoji32_vqgan

CLASSES = 27  # Nine categories in three styles.


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Unleashing Transformers (arXiv:2111.12701) at laptop size."""
  words = arg.split(":")
  if unknown := set(words) - {"", "smoke", "emoji16"}:
    raise ValueError(
      f"There is no variant {unknown.pop()!r} of this config; choose one of"
      " smoke, emoji16."
    )
  small = "smoke" if "smoke" in words else ""
  pictures = emoji16_vqgan if "emoji16" in words else emoji32_vqgan
  tokenizer = pictures.get_config(small).tokenizer
  side = tokenizer.image_size // 2 ** (len(tokenizer.multipliers) - 1)
  c = ml_collections.ConfigDict()
  c.stage = "prior"
  c.seed = 0
  c.init_from = ""  # Directory of a run whose weights this one starts from.
  c.steps = 720
  c.batch = 32

  c.data = dict(name="tokens", path="runs/emoji32/tokenizer/tokens")
  c.prior = dict(
    name="absorbing",
    vocab_size=tokenizer.vocab_size,
    loss_weight="reweighted",  # Learns faster than "elbo", by the ELBO too.
    time_steps=side * side,
    masking="exact",  # The same bound as "bernoulli", with less noise.
  )
  c.net = dict(
    name="transformer",
    vocab_size=tokenizer.vocab_size,
    grid=(side, side),
    layers=4,
    width=128,
    heads=4,
    labels=CLASSES,
    activation="sigmoid",  # A fifth of a step's time less than "exact".
    remat=False,
  )
  c.condition = dict(dropout=0.1, null="learnt")
  c.optimizer = dict(
    lr=3e-3,
    warmup_steps=50,
    decay="cosine",
    b1=0.9,
    b2=0.99,
    weight_decay=0.03,
    clip_norm=1.0,
    only="",  # Pattern of the weights that are trained; empty is all.
  )
  c.ema = dict(decay=0.995, every=1, warmup=True)

  c.sampler = dict(name="ancestral", steps=32)
  c.sample = dict(
    count=128,
    batch=32,
    seed=0,
    guidance=2.0,
    guidance_interval=(0.0, 1.0),
    guidance_ramp="constant",
    top_p=1.0,
    temperature=0.8,
    canvas=(),  # (H, W) in tokens of larger images; empty is the net's grid.
    stride=2,  # Tokens between the windows over a canvas.
    windows=16,  # In one network call.
    jitter=False,  # Shift the windows at random in each step.
    tile=(),  # (h, w) in tokens decoded at a time; empty is twice the grid.
  )

  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  # patience ends training after that many evaluations without a better bound.
  c.every = dict(log=20, evaluate=720, save=360, patience=0)
  c.keep = dict(latest=2, best="validation/bits_per_token", mode="min")
  c.evaluate = dict(
    batch=32,
    limit=256,  # Validation images, while training.
    features="emoji",  # Networks a,b of vq_jax/features.
    weights="weights",  # A directory of each that is not shipped.
    metrics=(),  # Of one network; empty is what it is known for.
    protocol="",  # Of a paper, which then says what is compared with what.
    reference="",  # Folder of what is compared with; empty is the run's.
    seed=0,
    # Bits per dimension: tokens of a tokenizer with a likelihood head, where
    # the run's own has none (configs/emoji32_likelihood.py).
    head="",
    pixels=dict(levels=256, dequantize=True),
    neighbours=dict(samples=128, k=7, lpips_weights=""),
  )
  if "emoji16" in words:
    c.steps = c.every.evaluate = c.every.save = 800
    c.data.path = "runs/emoji16/tokenizer/tokens"
    c.sampler.steps = side * side
    c.sample.update(guidance=0.0, temperature=1.0)
  return smoke(c) if "smoke" in words else c


def smoke(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same run, too small to learn anything."""
  c.steps, c.batch = 8, 8
  c.net.update(layers=1, width=16, heads=2)
  c.sampler.steps = 4
  c.sample.update(count=8, batch=8)
  c.every.update(log=2, evaluate=4, save=4)
  c.evaluate.batch = 8
  return c


def sweep(add):
  """Sample quality against the number of network calls."""
  for steps in (4, 8, 16, 32, 64):
    add({"sampler.steps": steps})
