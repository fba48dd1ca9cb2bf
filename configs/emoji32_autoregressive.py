"""The autoregressive baseline over the tokens of the quickstart.

  python -m vq_jax.main --mode=train \
    --config=configs/emoji32_autoregressive.py \
    --workdir=runs/emoji32/autoregressive

  python launch/sweep.py --config=configs/emoji32_autoregressive.py \
    --name=emoji32_autoregressive --mode=evaluate \
    --base=runs/emoji32/autoregressive --run
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """emoji32_absorbing with the same net, causal: arXiv:2111.12701, Table 4."""
  c = emoji32_absorbing.get_config(arg)
  c.prior = dict(name="autoregressive", vocab_size=c.prior.vocab_size)
  c.net.causal = True
  c.sampler = dict(name="autoregressive")
  return c


def sweep(add):
  """Sample quality against temperature, as in emoji32_temperature."""
  for temperature in (0.8, 0.9, 1.0):
    add({"sample.guidance": 0.0, "sample.temperature": temperature})
