"""Steps of training against steps of sampling (arXiv:2205.16007, table 2).

  python launch/sweep.py --config=configs/vq_diffusion_steps.py \
    --name=vq_diffusion_steps --mode=train,evaluate --run

trains a class-conditional model for each T and samples it with T steps. In
how many others a model can be sampled is a sweep over one of those runs:

  python launch/sweep.py --config=configs/vq_diffusion_emoji_class.py \
    --name=vq_diffusion_steps_25 --mode=evaluate --run --base=RUN -- \
    --config.sample.guidance=0 --config.prior.time_steps=25 \
    --config.net.time_steps=25
"""

import ml_collections

from configs import vq_diffusion_emoji_class


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The class config, unguided as in the paper's table."""
  c = vq_diffusion_emoji_class.get_config(arg)
  c.sample.guidance = 0.0
  return c


def sweep(add):
  """T, and as many steps of sampling."""
  for steps in (10, 25, 100):
    add(
      {
        "prior.time_steps": steps,
        "net.time_steps": steps,
        "sampler.steps": steps,
      }
    )
