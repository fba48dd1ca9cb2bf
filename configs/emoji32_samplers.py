"""Every sampler of masked tokens, on the prior of the quickstart.

  python launch/sweep.py --config=configs/emoji32_samplers.py:halton \
    --name=emoji32_samplers --label=sampler=halton --mode=evaluate \
    --base=runs/emoji32/prior --run

and likewise for each of SAMPLERS. Those that a critic tells where to draw again
need the runs of configs/emoji32_critic.py.

  python docs/results/tables.py emoji32_samplers --by=sampler \
    --x=sampler.steps --pictures=docs/figures/samplers_steps.png
  python docs/results/tables.py emoji32_samplers --by=sampler \
    --x=network_calls --plot=docs/figures/samplers_calls.png \
    --y=emoji_fd,emoji_precision,emoji_recall,emoji_density
"""

import ml_collections

from configs import emoji32_absorbing

# The less a critic knows, the more noise it takes not to insist on it.
SAMPLERS = {
  "ancestral": {},
  "confidence": {},
  "corrector": {},
  "critic": {"critic": "runs/emoji32/critic", "noise": 4.0},
  "fewer_tokens": {},
  "halton": {},
  "purity": {},
  "remask": {},
  "self_critic": {
    "name": "critic",
    "critic": "runs/emoji32/self_critic",
    "noise": 16.0,
  },
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """emoji32_absorbing, unguided and at temperature 1: the samplers' own law."""
  words = arg.split(":")
  name = next((word for word in words if word in SAMPLERS), "ancestral")
  words = [word for word in words if word != name]
  c = emoji32_absorbing.get_config(":".join(words))
  c.sampler = {"name": name, "steps": c.sampler.steps, **SAMPLERS[name]}
  c.sample.update(guidance=0.0, temperature=1.0)
  return c


def sweep(add):
  """Sample quality against the number of steps."""
  for steps in (4, 8, 16, 32):
    add({"sampler.steps": steps})
