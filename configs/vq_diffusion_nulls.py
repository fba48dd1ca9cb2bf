"""What stands for no caption (arXiv:2205.16007, table 1), at laptop size.

As in the paper, one model is trained a little further in four ways:

  python launch/sweep.py --config=configs/vq_diffusion_nulls.py \
    --name=vq_diffusion_nulls --mode=train,evaluate --run

It never saw an empty caption before:

  python -m vq_jax.main --mode=train --workdir=runs/emoji32/plain \
    --config=configs/vq_diffusion_emoji_text.py \
    --config.condition.dropout=0 --config.condition.null=fixed \
    --config.steps=720 --config.every.evaluate=720
"""

import ml_collections

from configs import vq_diffusion_emoji_text


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """A short run that starts from the weights of another."""
  c = vq_diffusion_emoji_text.get_config(arg)
  c.init_from = "runs/emoji32/plain"
  if arg != "smoke":
    c.steps = 200
    c.optimizer.update(lr=1e-3, warmup_steps=20)
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
