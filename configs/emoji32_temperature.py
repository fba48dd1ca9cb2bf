"""Temperatures of the quickstart's prior (arXiv:2111.12701, section 4.3).

  python launch/sweep.py --config=configs/emoji32_temperature.py \
    --name=emoji32_temperature --mode=evaluate --base=runs/emoji32/prior --run
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Unguided, and one token a step: what emoji32_autoregressive compares to."""
  c = emoji32_absorbing.get_config(arg)
  c.sample.guidance = 0.0
  if arg != "smoke":
    c.sampler.steps = c.prior.time_steps
  return c


def sweep(add):
  """Sample quality against temperature."""
  for temperature in (0.8, 0.9, 1.0):
    add({"sample.temperature": temperature})
