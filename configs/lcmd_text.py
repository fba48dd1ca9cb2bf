"""VQ-LCMD over text: one row of characters, the names of the embedded emoji.

  python -m vq_jax.main --mode=tokenize --config=configs/names.py \
    --workdir=runs/names/tokenizer
  python -m vq_jax.main --mode=train --config=configs/lcmd_text.py \
    --workdir=runs/names/lcmd
  python -m vq_jax.main --mode=sample --config=configs/lcmd_text.py \
    --workdir=runs/names/lcmd
  python -m vq_jax.main --mode=evaluate --config=configs/lcmd_text.py \
    --workdir=runs/names/lcmd

samples.txt has what samples.png shows, a line each. Variants: absorbing,
autoregressive, other priors of the same net for as many updates, to compare
with; each has a directory of its own:

  python -m vq_jax.main --mode=train --config=configs/lcmd_text.py:absorbing \
    --workdir=runs/names/absorbing

The samplers at few and at many network calls:

  python launch/sweep.py --config=configs/lcmd_text.py --name=lcmd_text \
    --mode=evaluate --base=runs/names/lcmd --run
"""

import ml_collections

from configs import (
  emoji32_absorbing,
  emoji32_autoregressive,
  emoji32_lcmd,
  names,
)

CHARACTERS = 46
CATEGORIES = 9
PRIORS = {
  "lcmd": emoji32_lcmd,
  "absorbing": emoji32_absorbing,
  "autoregressive": emoji32_autoregressive,
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The images' config of that prior, on a grid of one row."""
  name = "lcmd" if arg in ("", "smoke") else arg
  if name not in PRIORS:
    raise ValueError(
      f"There is no variant {name!r} of this config; choose one of smoke,"
      f" {', '.join(PRIORS)}."
    )
  c = PRIORS[name].get_config("smoke" if arg == "smoke" else "")
  c.data.path = "runs/names/tokenizer/tokens"
  c.prior.vocab_size = c.net.vocab_size = CHARACTERS
  c.net.update(grid=(1, names.LENGTH), labels=CATEGORIES)
  if "time_steps" in c.prior:
    c.prior.time_steps = names.LENGTH
  # As the law is: what is known by heart and what is new can be told apart.
  c.sample.update(guidance=0.0, temperature=1.0)
  del c.sample.stride  # Of another type: windows have no two rows.
  c.sample.stride = (1, names.LENGTH // 4)
  # No feature of pictures says anything of text.
  c.evaluate = dict(batch=c.evaluate.batch, limit=256, features="", seed=0)
  return c


def sweep(add):
  """Spelling against the number of network calls."""
  for name in ("ancestral", "ddim", "multistep"):
    for steps in (4, 8, 16, 32, 64):
      add({"sampler.name": name, "sampler.steps": steps})
