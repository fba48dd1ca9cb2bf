"""VQGAN f4 for the embedded emoji at 32x32: the tokenizer of the quickstart.

  python -m vq_jax.main --mode=train --config=configs/emoji32_vqgan.py \
    --workdir=runs/emoji32/tokenizer

Variants: ema, gumbel, fsq, lfq, other quantizers with about as many codes.
"""

import ml_collections

QUANTIZERS = {
  "ema": dict(quantizer_options=dict(commitment=1.0)),
  "gumbel": dict(quantizer_options=dict(kl_weight=1e-4)),
  "fsq": dict(
    vocab_size=60, code_dim=3, quantizer_options=dict(levels=(5, 4, 3))
  ),
  "lfq": dict(code_dim=6, quantizer_options=dict(entropy=0.1)),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """8x8 tokens of 64 codes; `:smoke` is seconds of plumbing."""
  if arg not in ("", "smoke", *QUANTIZERS):
    raise ValueError(
      f"There is no variant {arg!r} of this config; choose one of smoke,"
      f" {', '.join(QUANTIZERS)}."
    )
  c = ml_collections.ConfigDict()
  c.stage = "vqgan"
  c.seed = 0
  c.init_from = ""  # Directory of a run whose weights this one starts from.
  # A small batch and many updates: at equal time, and so at equal images, 8
  # reconstruct 2.5 dB better than 32 (docs/benchmarks.md).
  c.steps = 1200
  c.batch = 8

  c.data = dict(name="emoji", size=32, label="both")
  c.splits = ("train", "validation", "heldout")  # What --mode=tokenize writes.
  # What --mode=tokenize does with each training image, and who of how many
  # processes does it: jobs of an array set the last two, -1 asks JAX.
  c.tokenize = dict(
    views=1, mirror=False, seed=0, shard=2**16, process=-1, processes=1
  )
  c.flip = True

  # Sized for two CPU cores, where the gradients of convolutions are the cost.
  # More codes would reconstruct better and leave a prior less to predict
  # (docs/benchmarks.md).
  c.tokenizer = dict(
    name="vqgan",
    image_size=32,
    channels=16,
    multipliers=(1, 2, 4),
    blocks=1,
    decoder_extra=0,
    attention=(),
    groups=8,
    latent_dim=64,
    code_dim=8,
    vocab_size=64,
    quantizer="nearest",
    quantizer_options=dict(commitment=1.0),
  )
  # The squared error alone: PSNR is what pixels can be held to without a
  # pretrained network (lpips_weights="file.safetensors" adds LPIPS).
  c.loss = dict(l1=0.0, l2=1.0, lpips_weights="")
  c.revive_after = 100  # Updates; 0 never revives a code.
  c.optimizer = dict(
    lr=2e-3, warmup_steps=50, decay="cosine", b1=0.9, b2=0.99, clip_norm=1.0
  )
  c.ema = dict(decay=0.995, every=1, warmup=True)

  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.every = dict(log=50, evaluate=600, save=600)
  c.keep = dict(latest=2, best="validation/psnr_db", mode="max")
  c.evaluate = dict(
    batch=64,
    limit=10_000,
    features="emoji",  # Networks a,b of vq_jax/features.
    weights="weights",  # A directory of each that is not shipped.
    metrics=(),  # Of one network; empty is what it is known for.
    protocol="",  # Of a paper, which then says what is compared with what.
    reference="",  # Folder of what is compared with; empty is the run's.
  )
  if arg in QUANTIZERS:
    del c.tokenizer.quantizer_options
    c.tokenizer.update(quantizer=arg, **QUANTIZERS[arg])
  if arg == "gumbel":
    c.temperature = dict(name="linear", start=1.0, end=0.1, decay_steps=c.steps)
  if arg not in ("", "smoke", "ema"):
    c.revive_after = 0  # There is no code to put elsewhere.
  return smoke(c) if arg == "smoke" else c


def smoke(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same run, too small to learn anything."""
  c.steps, c.batch = 8, 8
  c.data = dict(name="synthetic", size=16)
  c.tokenizer.update(
    image_size=16,
    multipliers=(1, 2),
    channels=8,
    groups=4,
    latent_dim=8,
    code_dim=8,
    vocab_size=16,
  )
  c.every = dict(log=2, evaluate=4, save=4)
  c.evaluate.batch = 8
  return c


def sweep(add):
  """Reconstruction against the size of the codebook."""
  for vocab_size in (64, 128, 256):
    add({"tokenizer.vocab_size": vocab_size})
