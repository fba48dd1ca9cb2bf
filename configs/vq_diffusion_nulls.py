"""What stands for no caption (arXiv:2205.16007, table 1), at laptop size.

  python launch/sweep.py --config=configs/vq_diffusion_nulls.py \
    --name=vq_diffusion_nulls --mode=train,evaluate --run

One model alone is trained with:

  python -m vq_jax.main --mode=train --config=configs/vq_diffusion_nulls.py \
    --workdir=runs/emoji32/nulls
"""

import ml_collections

from configs import vq_diffusion_emoji_text


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The text config, trained for a third as long."""
  c = vq_diffusion_emoji_text.get_config(arg)
  if arg != "smoke":
    c.steps //= 3
    c.every.evaluate = c.every.save = c.steps
  return c


def sweep(add):
  """No guidance, the empty caption untrained and trained, a learnt null."""
  for dropout, null, guidance in (
    (0.0, "fixed", 0.0),
    (0.0, "fixed", 2.0),
    (0.1, "fixed", 2.0),
    (0.1, "learnt", 2.0),
  ):
    add(
      {
        "condition.dropout": dropout,
        "condition.null": null,
        "sample.guidance": guidance,
      }
    )
