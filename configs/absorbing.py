"""The published absorbing priors, at the authors' hyper-parameters.

  python -m vq_jax.main --mode=train --config=configs/absorbing.py:ffhq \
    --workdir=runs/ffhq/prior --config.data.path=TOKENS

Variants: ffhq, churches, bedroom. TOKENS is a directory that --mode=tokenize
wrote, of 16x16 tokens and 1024 codes. `emoji_*` metrics of other pictures than
emoji compare runs, and nothing else.
"""

import ml_collections

# arXiv:2111.12701, appendix A, with the released settings. Both LSUN models
# were trained for 2M steps; that of FFHQ was stopped by its validation bound,
# as `keep` does here.
LSUN = dict(lr=2e-4, warmup_steps=10_000)
VARIANTS = {
  "ffhq": dict(lr=1e-4, warmup_steps=30_000),
  "churches": LSUN,
  "bedroom": LSUN,
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
  c = ml_collections.ConfigDict()
  c.stage = "prior"
  c.seed = 0
  c.init_from = ""  # Directory of a run whose weights this one starts from.
  c.steps = 2_000_000
  c.batch = 20

  c.data = dict(name="tokens", path=f"runs/{name}/tokenizer/tokens")
  # balance="class" shows all classes equally often; threads=0 is one a core.
  c.loader = dict(balance="", threads=0, ahead=2)
  c.prior = dict(
    name="absorbing",
    vocab_size=1024,
    loss_weight="reweighted_released",
    time_steps=16 * 16,
    masking="bernoulli",
    bound_times=16,
  )
  c.net = dict(
    name="transformer",
    vocab_size=1024,
    grid=(16, 16),
    layers=24,
    width=512,
    heads=8,
    head_bias=False,
    remat=True,
    dtype="bfloat16",
  )
  c.condition = dict(dropout=0.0, null="learnt")
  c.optimizer = dict(
    decay="constant",
    b1=0.9,
    b2=0.999,
    weight_decay=0.0,
    clip_norm=None,
    only="",
    **VARIANTS[name],
  )
  c.ema = dict(decay=0.995, every=10, warmup=False)

  c.sampler = dict(name="ancestral", steps=256)
  c.sample = dict(
    count=1024,
    batch=64,
    seed=0,
    guidance=0.0,
    top_p=1.0,
    temperature=1.0,
    canvas=(),  # (H, W) in tokens of larger images; empty is the net's grid.
    stride=4,  # Tokens between the windows over a canvas.
    windows=16,  # In one network call.
    jitter=False,  # Shift the windows at random in each step.
    tile=(),  # (h, w) in tokens decoded at a time; empty is twice the grid.
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
  if smoke:
    c.net.update(layers=1, width=16, heads=2, vocab_size=16, grid=(4, 4))
    c.net.dtype = "float32"
    c.prior.update(vocab_size=16, time_steps=4 * 4)
    c.steps, c.batch = 8, 8
    c.every.update(log=2, evaluate=4, save=4)
    c.sampler.steps = 4
    c.sample.update(count=8, batch=8)
    c.evaluate.batch = 8
  return c
