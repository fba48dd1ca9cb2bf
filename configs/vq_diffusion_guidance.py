"""Figure 2 of Improved VQ-Diffusion (arXiv:2205.16007) on the embedded data.

  python launch/sweep.py --config=configs/vq_diffusion_guidance.py \
    --name=vq_diffusion_guidance --mode=evaluate --base=runs/emoji32/text --run

writes rows, table.md and plot.png to docs/results/vq_diffusion_guidance. The
paper draws FID, Quality Score and Diversity Score against the scale s; here
precision stands for quality and recall for diversity. Its samples of text are
not truncated: that is the line top_p = 1.
"""

import ml_collections

from configs import vq_diffusion_emoji_text

FIGURE = dict(
  x=("sample.guidance",),
  y=("emoji_fd", "emoji_precision", "emoji_recall"),
  by="sample.top_p",
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The run with captions."""
  return vq_diffusion_emoji_text.get_config(arg)


def sweep(add):
  """Guidance and truncation."""
  for top_p in (1.0, 0.9):
    for guidance in (0.0, 1.0, 2.0, 3.0, 5.0):
      add({"sample.guidance": guidance, "sample.top_p": top_p})
