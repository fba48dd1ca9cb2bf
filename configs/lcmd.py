"""The published VQ-LCMD priors, as far as their hyper-parameters are known.

  python -m vq_jax.main --mode=train --config=configs/lcmd.py:ffhq \
    --workdir=runs/ffhq/lcmd --config.data.path=TOKENS

Variants: ffhq, churches, bedroom, imagenet (classes). TOKENS is a directory
that --mode=tokenize wrote, of 16x16 tokens and 1024 codes. `emoji_*` metrics of
other pictures than emoji compare runs, and nothing else.
"""

import ml_collections

# arXiv:2410.14758, appendix A, with the steps of tables 2 and 3. The paper does
# not tell the optimizer, the length of training, the decay of the average, the
# shift of the schedule, or the guidance of ImageNet: those are ours.
FACES = dict(
  net=dict(layers=15, width=512, heads=8),
  sampler=dict(steps=200),
  sample=dict(guidance=0.0),
)
VARIANTS = {
  "ffhq": FACES,
  "churches": FACES,
  "bedroom": FACES,
  "imagenet": dict(
    net=dict(layers=24, width=768, heads=16, labels=1000),
    sampler=dict(steps=50),
    sample=dict(guidance=1.0),
  ),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """One of VARIANTS; `smoke` is ffhq with a net that fits anywhere."""
  smoke = arg == "smoke"
  name = "ffhq" if arg in ("", "smoke") else arg
  if name not in VARIANTS:
    raise ValueError(
      f"There is no variant {name!r} of this config; choose one of"
      f" {', '.join(VARIANTS)}."
    )
  variant = VARIANTS[name]
  c = ml_collections.ConfigDict()
  c.stage = "prior"
  c.seed = 0
  c.init_from = ""  # Directory of a run whose weights this one starts from.
  c.steps = 500_000
  c.batch = 128

  c.data = dict(name="tokens", path=f"runs/{name}/tokenizer/tokens")
  # balance="class" shows all classes equally often; threads=0 is one a core.
  c.loader = dict(balance="", threads=0, ahead=2)
  c.prior = dict(
    name="lcmd",
    vocab_size=1024,
    shift=0.3,
    consistency_weight=1.0,
    diffusion_weight=0.005,
    drop="fixed",
    drop_ratio=0.2,
    bound_times=16,
  )
  c.net = dict(
    name="transformer",
    vocab_size=1024,
    grid=(16, 16),
    code_dim=256,
    time="sinusoidal",
    position="sinusoidal",
    attention_dropout=0.1,
    remat=True,
    dtype="bfloat16",
    **variant["net"],
  )
  c.codes = "normal"  # "tokenizer" starts from its codebook.
  conditional = "labels" in variant["net"]
  c.condition = dict(dropout=0.1 if conditional else 0.0, null="learnt")
  c.optimizer = dict(
    lr=2e-4,
    warmup_steps=5_000,
    decay="constant",
    b1=0.9,
    b2=0.99,
    weight_decay=0.0,
    clip_norm=1.0,
    only="",  # "^(?!net/codes$)" trains all but the embeddings.
  )
  c.ema = dict(decay=0.9999, every=1, warmup=True)

  c.sampler = dict(name="ancestral", grid="time", **variant["sampler"])
  c.sample = dict(
    count=1024,
    batch=64,
    seed=0,
    top_p=1.0,
    temperature=1.0,
    canvas=(),  # (H, W) in tokens of larger images; empty is the net's grid.
    stride=4,  # Tokens between the windows over a canvas.
    windows=16,  # In one network call.
    jitter=False,  # Shift the windows at random in each step.
    tile=(),  # (h, w) in tokens decoded at a time; empty is twice the grid.
    **variant["sample"],
  )
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  # patience ends training after that many evaluations without a better bound.
  c.every = dict(log=100, evaluate=20_000, save=10_000, patience=0)
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
    # Bits per dimension: tokens of a tokenizer with a likelihood head, where
    # the run's own has none.
    head="",
    pixels=dict(levels=256, dequantize=True),
    neighbours=dict(samples=128, k=7, lpips_weights=""),
  )
  return shrink(c) if smoke else c


def shrink(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same run, too small to learn anything."""
  c.net.update(layers=1, width=16, heads=2, vocab_size=16, grid=(4, 4))
  c.net.update(code_dim=8, dtype="float32")
  c.prior.vocab_size = 16
  c.steps, c.batch = 8, 8
  c.every.update(log=2, evaluate=4, save=4)
  c.sampler.steps = 4
  c.sample.update(count=8, batch=8)
  c.evaluate.batch = 8
  return c


def sweep(add):
  """Dimension of the embeddings (table 8), at equal noise."""
  for dim in (64, 128, 256, 768, 1024):
    add(
      {"net.code_dim": dim, "prior.shift": round(0.3 * (256 / dim) ** 0.5, 3)}
    )
