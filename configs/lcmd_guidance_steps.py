"""Figure 6 of VQ-LCMD (arXiv:2410.14758) on the embedded data.

  python launch/sweep.py --config=configs/lcmd_guidance_steps.py \
    --name=lcmd_guidance_steps --mode=evaluate --base=runs/emoji32/lcmd --run

writes rows, table.md and plot.png to docs/results/lcmd_guidance_steps. The
paper draws FID and Inception Score, (a) against the weight of guidance and (b)
against the steps. The network for emoji knows no classes, which that score
needs: precision stands for it.
"""

import ml_collections

from configs import emoji32_lcmd

FIGURE = dict(
  x=("sample.guidance", "sampler.steps"), y=("emoji_fd", "emoji_precision")
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The run with classes."""
  return emoji32_lcmd.get_config(arg)


def sweep(add):
  """One at a time: a point is on the curves of what it names."""
  for guidance in (0.0, 0.5, 1.0, 2.0, 4.0):
    add({"sample.guidance": guidance})
  for steps in (4, 8, 16, 32, 64):
    add({"sampler.steps": steps})
