"""VQ-LCMD over text: one row of characters, the names of the embedded emoji.

  python -m vq_jax.main --mode=train --config=configs/lcmd_text.py \
    --workdir=runs/names/lcmd
  python -m vq_jax.main --mode=sample --config=configs/lcmd_text.py \
    --workdir=runs/names/lcmd
  python -m vq_jax.main --mode=evaluate --config=configs/lcmd_text.py \
    --workdir=runs/names/lcmd

The tokens are those of configs/names.py, whose command takes seconds, and needs
no training. What samples.png shows, samples.txt has as lines of text. Variants
are other priors over the same tokens, trained for as many updates: absorbing,
autoregressive.

  python -m vq_jax.main --mode=train --config=configs/lcmd_text.py:absorbing \
    --workdir=runs/names/absorbing

Samplers at few and at many network calls:

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
  """A config of emoji at 32x32, with one row of characters for a grid."""
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
  if name == "lcmd":
    # Less noise than over images, of which an example has twice the tokens to
    # tell each other by. Not tuned.
    c.prior.shift = 0.17
  # No heuristics: what is known by heart must show.
  c.sample.update(guidance=0.0, temperature=1.0)
  del c.sample.stride  # One number, where rows and columns need two.
  c.sample.stride = (1, names.LENGTH // 4)
  # Features of pictures say nothing of text.
  c.evaluate = dict(batch=c.evaluate.batch, limit=256, features="", seed=0)
  if arg != "smoke":
    c.steps = 900  # 18 times through the names.
    c.every.update(evaluate=300, save=300)
  return c


def sweep(add):
  """Spelling against the number of network calls."""
  for name in ("ancestral", "ddim", "multistep"):
    for steps in (4, 8, 16, 32, 64):
      add({"sampler.name": name, "sampler.steps": steps})
