"""MaskGIT over the 8x8 emoji tokens.

  python -m vq_jax.main --mode=train --config=configs/emoji32_maskgit.py \
    --workdir=runs/emoji32/maskgit

  python launch/sweep.py --config=configs/emoji32_maskgit.py \
    --name=emoji32_maskgit --mode=evaluate --base=runs/emoji32/maskgit --run
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """arXiv:2202.04200 at laptop size: the net of emoji32_absorbing."""
  c = emoji32_absorbing.get_config(arg)
  c.prior = dict(
    name="maskgit",
    vocab_size=c.prior.vocab_size,
    schedule="cosine",
    masking="exact",
    least=0.0,  # The released configuration says 0.5, which a bound pays for.
    visible_weight=0.0,
    label_smoothing=0.1,
  )
  c.sampler = dict(name="confidence", choice_temperature=4.5, steps=8)
  c.sample.temperature = 1.0
  return c


def sweep(add):
  """Sample quality against the number of network calls."""
  for steps in (2, 4, 8, 16, 32):
    add({"sampler.steps": steps})
