"""VQGAN f4 for a folder of one's own pictures at 32x32: a first look at them.

  python -m vq_jax.main --mode=train --config=configs/folder32_vqgan.py \
    --workdir=runs/own/tokenizer --config.data.path=PICTURES

PICTURES holds PICTURES/CLASS/NAME.jpg, or what else vq_jax/data/folder.py
reads. There are as many tokens and codes as of the emoji, so that the priors of
configs/emoji32_*.py fit, with the number of classes in config.net.labels.
"""

import ml_collections

from configs import emoji32_vqgan


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """A variant of configs/emoji32_vqgan.py on files; `:smoke` is tiny."""
  c = emoji32_vqgan.get_config(arg)
  c.data = dict(
    name="folder",
    path="data/own",
    size=c.tokenizer.image_size,
    max_bad=0.01,
    transform=dict(crop="center", resample="bicubic"),
  )
  c.splits = ("train", "validation")
  # balance="class" shows all classes equally often; threads=0 is one a core.
  c.loader = dict(balance="", threads=0, ahead=2)
  return c
