"""Step schedules of the quickstart's prior: how many tokens each call reveals.

  python launch/sweep.py --config=configs/emoji32_schedules.py \
    --name=emoji32_schedules --mode=evaluate --base=runs/emoji32/prior --run
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The prior of the quickstart, with a budget of network calls."""
  c = emoji32_absorbing.get_config(arg)
  c.sampler = dict(name="fewer_tokens", steps=8, schedule="uniform")
  return c


def sweep(add):
  """Quality against calls; "optimal" is made of the trained model's losses."""
  for schedule in ("uniform", "cosine", "optimal"):
    for steps in (4, 8, 16):
      add({"sampler.schedule": schedule, "sampler.steps": steps})
