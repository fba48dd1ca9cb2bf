"""The autoregressive baselines of the published absorbing priors.

  python -m vq_jax.main --mode=train --config=configs/autoregressive.py:ffhq \
    --workdir=runs/ffhq/autoregressive --config.data.path=TOKENS

Variants and TOKENS are those of configs/absorbing.py.
"""

import ml_collections

from configs import absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The same net, causal, on the same tokens: arXiv:2111.12701, Table 4."""
  c = absorbing.get_config(arg)
  c.prior = dict(name="autoregressive", vocab_size=c.prior.vocab_size)
  c.net.causal = True
  # The released code takes the settings of LSUN for faces as well.
  c.optimizer.update(absorbing.LSUN)
  c.sampler = dict(name="autoregressive")
  return c
