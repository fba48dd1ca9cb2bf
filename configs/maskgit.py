"""MaskGIT priors, as far as their hyper-parameters are known.

  python -m vq_jax.main --mode=train --config=configs/maskgit.py:imagenet \
    --workdir=runs/imagenet/maskgit --config.data.path=TOKENS

Variants and TOKENS are those of configs/lcmd.py: ffhq, churches, bedroom,
imagenet (classes).
"""

import ml_collections

from configs import lcmd

# arXiv:2202.04200, with the released configuration. Its training code was not
# released: that `least` is a floor on the ratio, that the decay is AdamW's, and
# the average of the weights are ours.
IMAGENET = dict(
  run=dict(steps=2_000_000, batch=256),
  prior=dict(
    schedule="cosine",
    masking="exact",
    least=0.5,
    visible_weight=0.0,
    label_smoothing=0.1,
  ),
  optimizer=dict(
    lr=1e-4, warmup_steps=5_000, b2=0.96, weight_decay=0.045, clip_norm=None
  ),
  steps=12,
)
# arXiv:2410.14758, table 2, which compares with the PyTorch implementation of
# arXiv:2310.14400 in 200 steps and tells no more: losses and optimizer are
# those of that implementation, size and length those of VQ-LCMD. The sampler's
# temperature is that of arXiv:2202.04200.
FACES = dict(
  run=dict(steps=500_000, batch=128),
  prior=dict(
    schedule="arccos",
    masking="bernoulli",
    least=0.0,
    visible_weight=1.0,
    label_smoothing=0.0,
  ),
  optimizer=dict(
    lr=1e-4, warmup_steps=2_500, b2=0.999, weight_decay=0.03, clip_norm=1.0
  ),
  steps=200,
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """A variant of configs/lcmd.py, with BERT's wiring; `smoke` is tiny."""
  c = lcmd.get_config(arg)
  variant = IMAGENET if arg == "imagenet" else FACES
  c.prior = dict(
    name="maskgit",
    vocab_size=c.prior.vocab_size,
    bound_times=16,
    **variant["prior"],
  )
  del c.net.code_dim, c.net.time, c.codes
  c.net.update(
    position="learnt",
    activation="tanh",
    post_norm=True,
    norm_epsilon=1e-12,
    tied_head=True,
    dropout=0.1,
  )
  if "labels" in c.net:
    c.net.label_token = True
  c.condition = dict(dropout=0.0, null="fixed")  # It is not guided.
  c.sample.guidance = 0.0
  c.optimizer.update(variant["optimizer"])
  c.sampler = dict(name="confidence", choice_temperature=4.5, steps=4)
  if arg != "smoke":
    c.update(variant["run"])
    c.sampler.steps = variant["steps"]
  return c


def sweep(add):
  """Masking schedules (arXiv:2202.04200, table 3)."""
  names = ("exp256", "pow3", "pow2", "cosine", "linear", "pow0.5", "log256")
  for name in names:
    add({"prior.schedule": name})
