"""The bound against its reweighting (arXiv:2111.12701, figure 5).

  python launch/sweep.py --config=configs/emoji32_losses.py \
    --name=emoji32_losses --mode=train,evaluate --run
"""

import ml_collections

from configs import emoji32_absorbing


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The prior of the quickstart, sampled as it is: unguided, untempered."""
  c = emoji32_absorbing.get_config(arg)
  c.sample.update(guidance=0.0, temperature=1.0)
  return c


def sweep(add):
  """What the loss is weighted by; the bound measures all of them."""
  for weight in ("elbo", "reweighted", "reweighted_released"):
    add({"prior.loss_weight": weight})
