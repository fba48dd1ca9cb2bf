"""What each part of VQ-LCMD is for, and its baselines: one training run each.

  python launch/sweep.py --config=configs/emoji32_lcmd_ablation.py \
    --name=emoji32_lcmd_ablation --mode=train,evaluate --run
"""

import ml_collections

from configs import emoji32_lcmd, emoji32_vqgan

# The bound alone (eq. 2), with the cosine schedule.
CSDM = {
  "prior.consistency_weight": 0.0,
  "prior.diffusion": "bound",
  "prior.diffusion_weight": 1.0,
  "prior.drop_ratio": 0.0,
  "prior.shift": 1.0,
}
# The loss of CDCD (arXiv:2211.15089): cross-entropy at all times, no bound.
CDCD = {
  "prior.reconstruction_weight": 0.0,
  "prior.consistency_weight": 0.0,
  "prior.diffusion_weight": 0.0,
  "prior.denoising_weight": 1.0,
  "prior.drop_ratio": 0.0,
}
NORM = {"prior.normalise": True}
# The tokenizer's embeddings are shorter: as noisy with a larger shift, and as
# loud with a larger weight.
DIM = emoji32_vqgan.get_config().tokenizer.code_dim
RATIO = emoji32_lcmd.get_config().net.code_dim / DIM
SHORT = {
  "net.code_dim": DIM,
  "prior.shift": round(emoji32_lcmd.get_config().prior.shift * RATIO**0.5, 3),
}
LOUD = {
  "prior.diffusion_weight": emoji32_lcmd.get_config().prior.diffusion_weight
  * RATIO
}
PRETRAINED = {"codes": "tokenizer"}
FROZEN = PRETRAINED | {"optimizer.only": "^(?!net/codes$)"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """emoji32_lcmd with half the width and fewer updates, sampled unguided."""
  c = emoji32_lcmd.get_config(arg)
  if arg != "smoke":
    c.net.update(width=64, heads=2)
    c.steps = 300
    c.every.update(evaluate=300, save=300)
    c.prior.bound_times = 4
  c.sample.guidance = 0.0
  return c


def sweep(add):
  """Tables 1, 2, 6 and 8 of arXiv:2410.14758, and what its reviewers missed."""
  add({"prior.consistency_weight": 1.0})  # Everything.
  add({"prior.consistency_weight": 0.0})
  add({"prior.shift": 1.0})
  add({"prior.drop_ratio": 0.0})
  for consistency, diffusion in (
    (0.01, 0.01),
    (0.01, 1.0),
    (1.0, 1.0),
    (1.0, 0.01),
    (1.0, 0.005),
  ):
    add(
      {
        "prior.consistency_weight": consistency,
        "prior.diffusion_weight": diffusion,
      }
    )
  for baseline in (CSDM, CSDM | NORM, CSDM | SHORT | FROZEN, CDCD):
    add(baseline)
  for codes in ({}, PRETRAINED, FROZEN):
    add(SHORT | LOUD | codes)
  add({"prior.diffusion_weight": 0.0})
  for ratio in (0.1, 0.5):
    add({"prior.drop_ratio": ratio})
  for law in ("random", "linear"):
    add({"prior.drop": law, "prior.drop_ratio": 1.0})
  add({"prior.solver": "heun"})
  add(CDCD | NORM)
