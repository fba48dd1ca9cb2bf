"""D3PM with uniform transitions over the 8x8 emoji tokens.

  python -m vq_jax.main --mode=train --config=configs/emoji32_d3pm.py \
    --workdir=runs/emoji32/d3pm

  python launch/sweep.py --config=configs/emoji32_d3pm.py \
    --name=emoji32_d3pm --mode=evaluate --base=runs/emoji32/d3pm --run
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """arXiv:2107.03006 at laptop size: the blocks of emoji32_absorbing."""
  c = emoji32_absorbing.get_config(arg)
  c.prior = dict(
    name="d3pm",
    vocab_size=c.prior.vocab_size,
    schedule="cosine",
    time_steps=100,
    hybrid=1e-3,
    bound_times=10,
  )
  # How many codes were replaced cannot be seen, as masks can be counted.
  c.net.time = "sinusoidal"
  c.sample.temperature = 1.0
  return c


def sweep(add):
  """Sample quality against the number of network calls."""
  for steps in (4, 8, 16, 32, 64, 100):
    add({"sampler.steps": steps})
