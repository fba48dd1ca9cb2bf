"""VQ-LCMD over the 8x8 emoji tokens: learnt embeddings, Gaussian noise.

  python -m vq_jax.main --mode=train --config=configs/emoji32_lcmd.py \
    --workdir=runs/emoji32/lcmd

  python launch/sweep.py --config=configs/emoji32_lcmd.py \
    --name=emoji32_lcmd --mode=evaluate --base=runs/emoji32/lcmd --run
  python docs/results/tables.py emoji32_lcmd --by=sampler.name \
    --x=sampler.steps --pictures=docs/figures/lcmd_steps.png
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """arXiv:2410.14758 at laptop size: the blocks of emoji32_absorbing."""
  c = emoji32_absorbing.get_config(arg)
  words = arg.split(":")
  c.prior = dict(
    name="lcmd",
    vocab_size=c.prior.vocab_size,
    # At t = 1/2 half of the nats are to be found (`cross_entropy_t50`).
    shift=0.12,
    margin=0.03,  # Less noise is none, and its SNR drowns the bound.
    reconstruction_weight=1.0,
    consistency_weight=1.0,
    # With less, after so few updates, consistency makes p sharper than the data
    # are: its entropy falls below its cross-entropy where half is known.
    diffusion_weight=0.1,
    denoising_weight=0.0,
    diffusion="simple",
    divergence="teacher",
    solver="ddim",
    average_codes=True,
    gradients=("state", "evidence", "estimate", "target"),
    drop="fixed",
    drop_ratio=0.2,
    drop_before_noise=False,
    normalise=True,
    evidence=True,
    decode="argmax",
    bound_times=4 if "emoji16" in words else 16,
  )
  c.net.update(code_dim=256, time="sinusoidal", position="sinusoidal")
  c.codes = "normal"  # "tokenizer" starts from its codebook, where it fits.
  # Decay would have a say in how fast embeddings turn.
  c.optimizer.weight_decay = 0.0
  c.sampler = dict(name="ancestral", steps=32, grid="time")
  if "emoji16" in words:
    c.sampler.update(name="ddim", steps=8)
  if "smoke" in words:
    c.sampler.steps = 4
  c.sample.temperature = 1.0  # No heuristics, as the paper has it.
  return c


def sweep(add):
  """Samplers at few and at many network calls (tables 4 and 5), unguided."""
  for name in ("ancestral", "ddim", "multistep"):
    for steps in (2, 4, 8, 16, 32):
      add(
        {
          "sampler.name": name,
          "sampler.steps": steps,
          "sample.guidance": 0.0,
        }
      )
