"""Figure 2 of Improved VQ-Diffusion (arXiv:2205.16007) on the embedded data.

  python launch/sweep.py --config=configs/vq_diffusion_guidance.py \
    --name=vq_diffusion_guidance --mode=evaluate --base=runs/emoji32/text --run

writes rows, table.md and plot.png to docs/results/vq_diffusion_guidance. The
paper draws FID, Quality Score and Diversity Score against the scale s. Scores
here are GIQA's log-likelihoods, more is better, and not the numbers in [0, 1]
that the paper makes of them (docs/evaluation.md). Its samples of text are not
truncated: that is the line top_p = 1.
"""

import ml_collections

from configs import vq_diffusion_emoji_text

SCORES = ("giqa_gmm_quality_nats", "giqa_gmm_diversity_nats")
FIGURE = dict(
  x=("sample.guidance",),
  y=("emoji_fd", *(f"emoji_{score}" for score in SCORES)),
  by="sample.top_p",
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The run with captions, and samples enough for five covariances."""
  c = vq_diffusion_emoji_text.get_config(arg)
  c.evaluate.metrics = ("frechet", "prdc", "giqa_gmm")
  if "smoke" not in arg:
    c.sample.count = 1024
  return c


def sweep(add):
  """Guidance and truncation."""
  for top_p in (1.0, 0.9):
    for guidance in (0.0, 1.0, 2.0, 3.0, 5.0):
      add({"sample.guidance": guidance, "sample.top_p": top_p})
