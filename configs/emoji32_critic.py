"""A critic of the quickstart's prior (Token-Critic, arXiv:2209.04439).

  python -m vq_jax.main --mode=train --config=configs/emoji32_critic.py \
    --workdir=runs/emoji32/critic
  python -m vq_jax.main --mode=sample --workdir=runs/emoji32/prior \
    --config=configs/emoji32_critic.py:sample

A self-critic trains a linear layer on the prior's own net, and no more:

  python -m vq_jax.main --mode=train --config=configs/emoji32_critic.py:self \
    --workdir=runs/emoji32/self_critic
  python -m vq_jax.main --mode=sample --workdir=runs/emoji32/prior \
    --config=configs/emoji32_critic.py:sample \
    --config.sampler.critic=runs/emoji32/self_critic \
    --config.sampler.noise=16
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The prior's net with one number per token; `sample` is the prior's config.

  The latter draws with the critic. `self` is the self-critic; `smoke:self`,
  like `smoke`, is small.
  """
  words = arg.split(":")
  c = emoji32_absorbing.get_config("smoke" if "smoke" in words else "")
  if "sample" in words:
    # Less noise lets the critic repeat the little that it knows.
    c.sampler = dict(
      name="critic", steps=16, critic="runs/emoji32/critic", noise=4.0
    )
    return c
  c.stage = "critic"
  c.generator = "runs/emoji32/prior"
  c.net.outputs = 1
  for section in ("prior", "sampler", "sample"):
    del c[section]
  if "self" in words:  # What it sees and how is the prior's.
    del c["net"], c["condition"]
  c.evaluate = dict(
    batch=c.evaluate.batch, limit=c.evaluate.limit, features="emoji", seed=0
  )
  c.keep = dict(latest=2, best="validation/nats_per_token", mode="min")
  return c
