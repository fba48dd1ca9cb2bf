"""Characters as codes, for configs/lcmd_text.py: a tokenizer without training.

  python -m vq_jax.main --mode=tokenize --config=configs/names.py \
    --workdir=runs/names/tokenizer
"""

import ml_collections

LENGTH = 32  # Characters; 96% of the names of emoji are not longer.


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """1x32 tokens of 46 characters; `:smoke` is the same, it takes seconds."""
  if arg not in ("", "smoke"):
    raise ValueError(f"There is no variant {arg!r} of this config but smoke.")
  c = ml_collections.ConfigDict()
  c.stage = "given"
  c.data = dict(name="names", length=LENGTH)
  c.splits = ("train", "validation")  # What --mode=tokenize writes.
  c.tokenizer = dict(name="characters", length=LENGTH)
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.evaluate = dict(batch=64)
  return c
