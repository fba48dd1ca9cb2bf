"""A critic of the quickstart's prior (Token-Critic, arXiv:2209.04439).

  python -m vq_jax.main --mode=train --config=configs/emoji32_critic.py \
    --workdir=runs/emoji32/critic
  python -m vq_jax.main --mode=sample --workdir=runs/emoji32/prior \
    --config=configs/emoji32_critic.py:sample
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The prior's net with one number per token; `sample` is the prior's config.

  The latter draws with the critic.
  """
  c = emoji32_absorbing.get_config("smoke" if arg == "smoke" else "")
  if arg == "sample":
    c.sampler = dict(name="critic", steps=16, critic="runs/emoji32/critic")
    return c
  c.stage = "critic"
  c.generator = "runs/emoji32/prior"
  c.net.outputs = 1
  for section in ("prior", "sampler", "sample"):
    del c[section]
  c.evaluate = dict(
    batch=c.evaluate.batch, limit=c.evaluate.limit, features="emoji", seed=0
  )
  c.keep = dict(latest=2, best="validation/nats_per_token", mode="min")
  return c
