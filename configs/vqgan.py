"""The published VQGAN tokenizers, at the authors' hyper-parameters.

  python -m vq_jax.main --mode=train --config=configs/vqgan.py:ffhq \
    --workdir=runs/ffhq/tokenizer --config.data.path=PICTURES

Variants: ffhq, churches, bedroom (arXiv:2111.12701); imagenet_f16_1024,
imagenet_f16_16384, openimages_f8 (arXiv:2012.09841); imagenet_maskgit
(arXiv:2202.04200). PICTURES is a directory
as vq_jax/data/folder.py reads it; config.loss.lpips_weights a file as
vq_jax/features/lpips.py reads it. `--config.init_from=RUN` fine-tunes a run or
what --mode=convert made of an official checkpoint.

`VARIANT,SET` trains on one of configs/_datasets.py instead, such as
`churches,lsun_churches`; docs/data.md says where to get it.
"""

import ml_collections

from configs import _datasets

# As released, with the small weight on the codes: not as in the papers.
NEAREST = dict(
  tokenizer=dict(
    quantizer="nearest",
    quantizer_options=dict(commitment=1.0, codebook_weight=0.25),
  )
)
# arXiv:2111.12701, with the released settings. Its network works on [0, 1],
# and so did its absolute error: half of ours.
UNLEASHED = dict(
  tokenizer=dict(
    projections=False, final_swish=False, decoder_extra=0, unit_range=True
  ),
  run=dict(batch=4),
  loss=dict(l1=0.5),
  adversarial=dict(start=30_001, augment=("colour", "translation")),
  optimizer=dict(lr=4 * 4.5e-6, b1=0.9, b2=0.999),
  ema=dict(decay=0.995, every=10),
)
# arXiv:2012.09841, with the released settings; the lengths of the runs and,
# but for the first, the batches were not released, and are ours.
TAMING = dict(
  tokenizer=dict(
    projections=True, final_swish=True, decoder_extra=1, unit_range=False
  ),
  run=dict(batch=12, steps=1_000_000),
  loss=dict(l1=1.0),
  adversarial=dict(start=250_001, lambda_max=1e4, factor=0.8, augment=()),
  optimizer=dict(lr=12 * 4.5e-6, b1=0.5, b2=0.9),
  ema=dict(decay=0.0, every=1),  # None was kept.
)
VARIANTS = {
  "ffhq": (UNLEASHED, NEAREST, dict(run=dict(steps=1_400_000))),
  "churches": (UNLEASHED, NEAREST, dict(run=dict(steps=2_200_000))),
  "bedroom": (UNLEASHED, NEAREST, dict(run=dict(steps=2_200_000))),
  "imagenet_f16_1024": (TAMING, NEAREST),
  "imagenet_f16_16384": (
    TAMING,
    NEAREST,
    dict(
      tokenizer=dict(vocab_size=16_384),
      adversarial=dict(start=0, factor=0.75, layers=2),
    ),
  ),
  # Of its losses the quantizer's alone was released: the others, and the
  # discriminator, are those of ImageNet, with the released optimizer.
  "imagenet_maskgit": (
    TAMING,
    dict(
      tokenizer=dict(
        wiring="maskgit",
        attention=(),
        projections=False,
        decoder_extra=0,
        unit_range=True,
        quantizer="nearest",
        quantizer_options=dict(commitment=0.25, entropy=0.1),
      ),
      run=dict(batch=256),
      optimizer=dict(lr=1e-4, b1=0.0, b2=0.99),
    ),
  ),
  # Its discriminator was not released; this is that of ImageNet.
  "openimages_f8": (
    TAMING,
    dict(
      tokenizer=dict(
        multipliers=(1, 1, 2, 4),
        attention=(32,),
        vocab_size=8192,
        quantizer="gumbel",
        quantizer_options=dict(kl_weight=1e-8),
      ),
      run=dict(temperature=dict(name="cosine")),
    ),
  ),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """One of VARIANTS; `smoke` is ffhq with a net that fits anywhere."""
  arg, _, chosen = arg.partition(",")
  smoke = arg == "smoke"
  name = "ffhq" if arg in ("", "smoke") else arg
  if name not in VARIANTS:
    raise ValueError(
      f"There is no variant {name!r} of this config; choose one of"
      f" {', '.join(VARIANTS)}."
    )
  c = ml_collections.ConfigDict()
  c.stage = "vqgan"
  c.seed = 0
  c.init_from = ""  # Directory of a run whose weights this one starts from.

  c.data = dict(name="folder", path=f"data/{name}", size=256)
  if chosen:
    c.data = _datasets.section(chosen)
  c.splits = ("train", "validation")  # What --mode=tokenize writes.
  # What --mode=tokenize does with each training image, and who of how many
  # processes does it: jobs of an array set the last two, -1 asks JAX.
  c.tokenize = dict(
    views=1, mirror=False, seed=0, shard=2**16, process=-1, processes=1
  )
  # The name "clip" stores text features as well, for priors with config.text
  # like this.
  c.tokenize.text = dict(
    name="", weights="clip-vit-b32-text.safetensors", merges="merges.txt"
  )
  # balance="class" shows all classes equally often; threads=0 is one a core.
  c.loader = dict(balance="", threads=0, ahead=2)
  c.flip = False  # Mirror every second image of training.

  c.tokenizer = dict(
    name="vqgan",
    image_size=256,
    channels=128,
    multipliers=(1, 1, 2, 2, 4),
    blocks=2,
    attention=(16,),
    groups=32,
    latent_dim=256,
    code_dim=256,
    vocab_size=1024,
    dtype="float32",
  )
  c.loss = dict(perceptual_weight=1.0, lpips_weights="lpips-vgg16.safetensors")
  c.revive_after = 0  # Updates; 0 never revives a code.
  c.adversarial = dict(
    loss="hinge",
    lambda_max=1.0,
    factor=1.0,
    layers=3,
    channels=64,
    norm="batch",
    r1=0.0,
  )
  c.optimizer = dict(warmup_steps=0, decay="constant")
  c.ema = dict(warmup=False)

  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.every = dict(log=100, evaluate=10_000, save=5_000)
  # The newest: pixels are reconstructed best before the discriminator starts.
  c.keep = dict(latest=2, best="", mode="max")
  c.evaluate = dict(
    batch=16,
    limit=2048,
    features="emoji",  # Networks a,b of vq_jax/features.
    weights="weights",  # A directory of each that is not shipped.
    metrics=(),  # Of one network; empty is what it is known for.
    protocol="",  # Of a paper, which then says what is compared with what.
    reference="",  # Folder of what is compared with; empty is the run's.
  )
  for part in VARIANTS[name]:
    for section, values in part.items():
      (c if section == "run" else c[section]).update(values)
  c.discriminator_optimizer = c.optimizer.copy_and_resolve_references()
  return shrink(c) if smoke else c


def shrink(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same run, too small to learn anything."""
  c.steps, c.batch = 8, 8
  c.data = dict(name="synthetic", size=16)
  c.tokenizer.update(
    image_size=16, channels=8, multipliers=(1, 2), blocks=1, attention=()
  )
  c.tokenizer.update(groups=4, latent_dim=8, code_dim=8, vocab_size=16)
  c.loss.lpips_weights = ""
  c.adversarial.update(start=4, layers=1, channels=4)
  c.every = dict(log=2, evaluate=4, save=4)
  c.evaluate.batch = 8
  return c
