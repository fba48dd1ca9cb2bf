"""What each part of VQ-LCMD is for, and its baselines: one training run each.

  python launch/sweep.py --config=configs/emoji16_lcmd_ablation.py \
    --name=emoji16_lcmd_ablation --mode=train,evaluate --run
"""

import ml_collections

from configs import emoji16_vqgan, emoji32_lcmd

# As the paper has it: the network knows z alone, and embeddings have any norm.
PAPER = {"prior.evidence": False, "prior.normalise": False}
# The bound alone (eq. 2), with the cosine schedule.
CSDM = PAPER | {
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
DIM = emoji16_vqgan.get_config().tokenizer.code_dim
LONG = emoji32_lcmd.get_config()
RATIO = LONG.net.code_dim / DIM
SHORT = {
  "net.code_dim": DIM,
  "prior.shift": round(LONG.prior.shift * RATIO**0.5, 3),
}
LOUD = {"prior.diffusion_weight": LONG.prior.diffusion_weight * RATIO}
PRETRAINED = {"codes": "tokenizer"}
FROZEN = PRETRAINED | {"optimizer.only": "^(?!net/codes$)"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """emoji32_lcmd over the 4x4 tokens."""
  return emoji32_lcmd.get_config(f"emoji16:{arg}")


def sweep(add):
  """Tables 1, 2, 6 and 8 of arXiv:2410.14758, and what its reviewers missed."""
  add({"prior.consistency_weight": 1.0})  # Everything.
  add({"prior.consistency_weight": 0.0})
  add({"prior.shift": 1.0})
  add({"prior.drop_ratio": 0.0})
  for field, value in PAPER.items():
    add({field: value})
  add({"prior.gradients": ("state", "evidence")})
  add(CDCD)
  for consistency, diffusion in (
    (0.01, 0.01),
    (0.01, 1.0),
    (1.0, 1.0),
    (1.0, 0.01),
    (1.0, 0.005),
    (0.0, 0.005),
  ):
    add(
      PAPER
      | {
        "prior.consistency_weight": consistency,
        "prior.diffusion_weight": diffusion,
      }
    )
  for baseline in (CSDM, CSDM | NORM, CSDM | SHORT | FROZEN):
    add(baseline)
  for codes in ({}, PRETRAINED, FROZEN):
    add(SHORT | LOUD | codes)
  add({"prior.diffusion_weight": 0.0})
  for ratio in (0.1, 0.5):
    add({"prior.drop_ratio": ratio})
  for law in ("random", "linear"):
    add({"prior.drop": law, "prior.drop_ratio": 1.0})
  add({"prior.solver": "heun"})
  add({"prior.denoising_weight": 1.0})
