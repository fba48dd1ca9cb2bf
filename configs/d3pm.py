"""D3PM with uniform transitions, as arXiv:2410.14758 compares with it.

  python -m vq_jax.main --mode=train --config=configs/d3pm.py:ffhq \
    --workdir=runs/ffhq/d3pm --config.data.path=TOKENS

Variants and TOKENS are those of configs/lcmd.py; the paper has no D3PM of
ImageNet.
"""

import ml_collections

from configs import lcmd


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The network and training of VQ-LCMD, on ids.

  The paper tells the steps of sampling. The chain and its loss are those of
  arXiv:2107.03006 for uniform transitions.
  """
  c = lcmd.get_config(arg)
  c.prior = dict(
    name="d3pm",
    vocab_size=c.prior.vocab_size,
    schedule="cosine",
    time_steps=20 if arg == "smoke" else 1000,
    hybrid=1e-3,
    bound_times=16,
  )
  del c.net.code_dim, c.codes
  c.sampler = dict(name="ancestral", steps=c.sampler.steps)
  return c
