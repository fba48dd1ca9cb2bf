"""The published VQ-Diffusion systems, at the authors' hyper-parameters.

  python -m vq_jax.main --mode=train --config=configs/vq_diffusion.py:coco \
    --workdir=runs/coco --config.data.path=TOKENS

Variants: coco, cub, ithq (captions), imagenet (classes), ffhq. TOKENS is a
directory that --mode=tokenize wrote, with as many codes and tokens. `emoji_*`
metrics of other pictures than emoji compare runs, and nothing else.
"""

import ml_collections

# arXiv:2111.14822 and arXiv:2205.16007, with the released settings. `batch` is
# that of eight devices. `steps` are the released epochs over the images of a
# data set (82,783 of COCO, 8,855 of CUB, 1.28 million of ImageNet, 70,000 of
# FFHQ); ITHQ is not public and its length is ours. Plateaus are counted in
# updates. Guidance is the paper's s, one less than the released scale; that of
# CUB is COCO's, since none was released.
TEXT_B = dict(layers=19, width=1024, grid=(32, 32), vocab_size=2887)
VARIANTS = {
  "coco": dict(
    run=dict(steps=260_000, batch=32),
    net=TEXT_B,
    optimizer=dict(lr=2e-4, warmup_steps=1000, patience=60_000),
    sample=dict(guidance=2.0),
  ),
  "cub": dict(
    run=dict(steps=110_000, batch=32),
    net=TEXT_B,
    optimizer=dict(lr=4.5e-4, warmup_steps=1000, patience=25_000),
    sample=dict(guidance=2.0),
  ),
  "ithq": dict(
    run=dict(steps=1_000_000, batch=64),
    net=dict(layers=36, width=1408, grid=(32, 32), vocab_size=4096),
    optimizer=dict(lr=1e-4, warmup_steps=7000, patience=50_000, threshold=0.05),
    sample=dict(guidance=4.0),
  ),
  "imagenet": dict(
    run=dict(steps=500_000, batch=256),
    net=dict(layers=24, width=512, grid=(16, 16), vocab_size=974, labels=1000),
    optimizer=dict(lr=4.5e-4, warmup_steps=5000, patience=100_000),
    sample=dict(guidance=0.5, top_p=0.94),
  ),
  "ffhq": dict(
    run=dict(steps=80_000, batch=256),
    net=dict(layers=20, width=512, grid=(16, 16), vocab_size=1024),
    optimizer=dict(lr=4.5e-4, warmup_steps=2000, patience=5000),
    sample=dict(guidance=0.0),
    ema=dict(every=10),
  ),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """One of VARIANTS; `smoke` is coco with a net that fits anywhere."""
  smoke = arg == "smoke"
  name = "coco" if arg in ("", "smoke") else arg
  if name not in VARIANTS:
    raise ValueError(
      f"There is no variant {name!r} of this config; choose one of"
      f" {', '.join(VARIANTS)}."
    )
  variant = VARIANTS[name]
  net = variant["net"]
  captioned = net["grid"] == (32, 32)
  c = ml_collections.ConfigDict()
  c.stage = "prior"
  c.seed = 0
  c.init_from = ""  # Directory of a run whose weights this one starts from.
  c.update(variant["run"])

  c.data = dict(name="tokens", path=f"runs/{name}/tokenizer/tokens")
  # balance="class" shows all classes equally often; threads=0 is one a core.
  c.loader = dict(balance="", threads=0, ahead=2)
  c.prior = dict(
    name="vq_diffusion",
    vocab_size=net["vocab_size"],
    schedule="alpha1",
    time_steps=100,
    auxiliary=5e-4 if captioned else 1e-3,
    adaptive=True,
    draw="importance",
    bound_times=20,
  )
  c.net = dict(
    name="transformer",
    heads=16,
    mlp="fc" if captioned else "conv",
    activation="sigmoid",
    position="row_column",
    # The class and face models were released with tables for 32x32 tokens.
    position_grid=(32, 32),
    time="learnt",
    time_steps=100,
    remat=True,
    dtype="bfloat16",
    **net,
  )
  if captioned:
    c.net.text_dim = 512
    c.text = dict(
      name="clip",
      weights="clip-vit-b32-text.safetensors",
      merges="merges.txt",
    )
  conditional = captioned or "labels" in net
  c.condition = dict(dropout=0.1 if conditional else 0.0, null="learnt")
  c.optimizer = dict(
    start_lr=3e-6,
    decay="plateau",
    b1=0.9,
    b2=0.96,
    weight_decay=0.045,
    decay_vectors=True,
    clip_norm=0.5,
    only="",
    **variant["optimizer"],
  )
  c.ema = dict(decay=0.99, every=25, warmup=False)
  c.ema.update(variant.get("ema", {}))

  c.sampler = dict(name="ancestral", steps=100)
  c.sample = dict(
    count=1024,
    batch=64,
    seed=0,
    captions=(),
    split="validation",
    guidance_interval=(0.0, 1.0),
    guidance_ramp="constant",
    top_p=1.0,
    temperature=1.0,
    canvas=(),  # (H, W) in tokens of larger images; empty is the net's grid.
    stride=net["grid"][0] // 4,  # Tokens between the windows over a canvas.
    windows=16,  # In one network call.
    jitter=False,  # Shift the windows at random in each step.
    tile=(),  # (h, w) in tokens decoded at a time; empty is twice the grid.
  )
  c.sample.update(variant["sample"])
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.every = dict(log=100, evaluate=10_000, save=5_000, patience=0)
  c.keep = dict(latest=2, best="validation/bits_per_token", mode="min")
  c.evaluate = dict(
    batch=64,
    limit=2048,
    features="emoji",  # Networks a,b of vq_jax/features.
    weights="weights",  # A directory of each that is not shipped.
    metrics=(),  # Of one network; empty is what it is known for.
    protocol="",  # Of a paper, which then says what is compared with what.
    reference="",  # Folder of what is compared with; empty is the run's.
    seed=0,
    agreement=("validation",),
    head="",
    pixels=dict(levels=256, dequantize=True),
    neighbours=dict(samples=128, k=7, lpips_weights=""),
  )
  return shrink(c) if smoke else c


def shrink(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same run, too small to learn anything."""
  c.net.update(layers=1, width=32, heads=2, text_dim=16, dtype="float32")
  c.net.update(vocab_size=16, grid=(4, 4))
  c.prior.vocab_size = 16
  c.text = dict(name="learnt", length=8, dim=16, layers=1, heads=2, buckets=64)
  c.steps, c.batch = 8, 8
  c.every.update(log=2, evaluate=4, save=4)
  c.sampler.steps = 4
  c.sample.update(count=8, batch=8)
  c.evaluate.batch = 8
  return c
