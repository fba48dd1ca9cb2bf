"""One net, one tokenizer, as many updates: the systems at few network calls.

  python -m vq_jax.main --mode=train --config=configs/emoji16_systems.py:d3pm \
    --workdir=runs/emoji16/d3pm
  python launch/sweep.py --config=configs/emoji16_systems.py:d3pm \
    --name=emoji16_systems --label=system=d3pm --mode=evaluate \
    --base=runs/emoji16/d3pm --run

and likewise for each of SYSTEMS.
"""

import ml_collections

from configs import (
  emoji16_lcmd_ablation,
  emoji32_absorbing,
  emoji32_d3pm,
  emoji32_lcmd,
  emoji32_maskgit,
  vq_diffusion_emoji_class,
)

SYSTEMS = {
  "absorbing": emoji32_absorbing,
  "cdcd": emoji32_lcmd,
  "d3pm": emoji32_d3pm,
  "lcmd": emoji32_lcmd,
  "maskgit": emoji32_maskgit,
  "vq_diffusion": vq_diffusion_emoji_class,
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """A system's own config over the 4x4 tokens, unguided, with its sampler."""
  words = arg.split(":")
  name = next((word for word in words if word in SYSTEMS), "lcmd")
  words = ["emoji16", *(word for word in words if word != name)]
  c = SYSTEMS[name].get_config(":".join(words))
  if name == "cdcd":
    c.update_from_flattened_dict(emoji16_lcmd_ablation.CDCD)
  c.sample.guidance = 0.0
  return c


def sweep(add):
  """Sample quality against the number of steps."""
  for steps in (2, 4, 8, 16):
    add({"sampler.steps": steps})
