"""Samplers of masked tokens, side by side, on the prior of the quickstart.

  python launch/sweep.py --config=configs/emoji32_samplers.py \
    --name=emoji32_samplers --mode=evaluate --base=runs/emoji32/prior --run
  python docs/results/tables.py emoji32_samplers --x=sampler.steps \
    --by=sampler.name --y=emoji_fd --plot=docs/figures/samplers_fd.png \
    --pictures=docs/figures/samplers_steps.png
"""

import ml_collections

from configs import emoji32_absorbing

# "corrector" calls the network twice a step, the others once at most.
SAMPLERS = (
  "ancestral",
  "confidence",
  "corrector",
  "fewer_tokens",
  "halton",
  "purity",
  "remask",
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """emoji32_absorbing, unguided and at temperature 1: the samplers' own law."""
  c = emoji32_absorbing.get_config(arg)
  c.sample.update(guidance=0.0, temperature=1.0)
  return c


def sweep(add):
  """Sample quality against the number of steps."""
  for name in SAMPLERS:
    for steps in (4, 8, 16, 32):
      add({"sampler.name": name, "sampler.steps": steps})
