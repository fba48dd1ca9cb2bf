"""The emoji tokenizer against a discriminator (arXiv:2111.12701, table 5).

  python -m vq_jax.main --mode=train --config=configs/emoji32_gan.py \
    --workdir=runs/emoji32/gan

  python launch/sweep.py --config=configs/emoji32_gan.py --name=emoji32_gan \
    --mode=train,evaluate --run
"""

import ml_collections

from configs import emoji32_vqgan


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """emoji32_vqgan and a discriminator, with all that the paper adds."""
  c = emoji32_vqgan.get_config(arg)
  smoke = arg == "smoke"
  c.adversarial = dict(
    loss="hinge",
    start=4 if smoke else 300,  # As in the paper, a while of its own.
    lambda_max=1.0,
    factor=1.0,
    layers=1 if smoke else 2,
    channels=4 if smoke else 16,
    norm="batch",
    augment=("colour", "translation"),
    r1=0.0,
  )
  c.discriminator_optimizer = dict(
    lr=1e-3, warmup_steps=0, decay="constant", b1=0.5, b2=0.99, clip_norm=1.0
  )
  # The newest: pixels are reconstructed best before the discriminator starts.
  c.keep.best = ""
  return c


def sweep(add):
  """Reconstruction with lambda_max, with DiffAugment, with both and neither."""
  for lambda_max in (1e4, 1.0):
    for names in ((), ("colour", "translation")):
      add({"adversarial.lambda_max": lambda_max, "adversarial.augment": names})
