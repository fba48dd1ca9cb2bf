"""Trains the image-caption encoder that measures emoji, and scores it.

  python launch/train_features.py
      on all of the data, into vq_jax/features/emoji.safetensors
  python launch/train_features.py --splits=train --output=/tmp/x.safetensors
      on the training split alone: does the recipe generalize?

Six minutes of one CPU core. The same seed gives the same weights on the same
machine.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from vq_jax.data import emoji as data
from vq_jax.features import emoji
from vq_jax.metrics import retrieval
from vq_jax.types import Array, Key, Params

RUN = 8  # Neighbours in Unicode's order that share a batch: hard negatives.
SHIFT = 2  # Pixels that a picture moves at most.


def join(splits: Sequence[str]) -> tuple[np.ndarray, list[str]]:
  """All pictures uint8 [N 64 64 3] of some splits, and their captions."""
  sources = [data.source(split) for split in splits]
  captions = [caption for source in sources for caption in source.captions]
  return np.concatenate([source.images for source in sources]), captions


def shrink(images: np.ndarray, batch: int = 512) -> np.ndarray:
  """Both ways to 32 pixels: [N 64 64 3] -> uint8 [N 2 32 32 3].

  The area average that the data offers, and the wider filter that
  `image_features` applies to large pictures.
  """
  n, size = len(images), emoji.SIZE
  area = images.reshape(n, size, 2, size, 2, 3).mean(axis=(2, 4))
  resize = jax.jit(
    lambda x: jax.image.resize(x, (len(x), size, size, 3), "linear")
  )
  parts = [
    np.asarray(resize(images[i : i + batch].astype(np.float32)))
    for i in range(0, n, batch)
  ]
  both = np.stack([area, np.concatenate(parts)], axis=1)
  return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def augment(key: Key, pairs: Array) -> Array:
  """Shift, blur, brightness, noise.  uint8 [b 2 h w 3] -> [b h w 3] in [0, 1].

  No flips: many pictures are signs. The blur is that of a tokenizer, which the
  features must survive.
  """
  keys = jax.random.split(key, 6)
  b, _, h, w, c = pairs.shape
  pairs = pairs.astype(jnp.float32) / 255.0
  mix = jax.random.uniform(keys[0], (b, 1, 1, 1))
  x = mix * pairs[:, 0] + (1.0 - mix) * pairs[:, 1]
  half = jax.image.resize(x, (b, h // 2, w // 2, c), "linear")
  blurred = jax.image.resize(half, x.shape, "linear")
  amount = jax.random.uniform(keys[1], (b, 1, 1, 1), minval=-1.0)
  x = x + jnp.maximum(amount, 0.0) * (blurred - x)
  gain = jax.random.uniform(keys[2], (b, 1, 1, 1), minval=0.9, maxval=1.1)
  bias = jax.random.uniform(keys[3], (b, 1, 1, c), minval=-0.05, maxval=0.05)
  noise = 0.02 * jax.random.normal(keys[4], x.shape)
  x = jnp.clip(gain * x + bias + noise, 0.0, 1.0)
  edge = ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
  x = jnp.pad(x, edge, constant_values=1.0)
  corners = jax.random.randint(keys[5], (b, 2), 0, 2 * SHIFT + 1)
  return jax.vmap(
    lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), (h, w, c))
  )(x, corners)


def loss(params: Params, images: Array, tokens: Array) -> Array:
  """Symmetric InfoNCE in nats (arXiv:2103.00020, fig. 3).

  Args:
    params: from `emoji.init`.
    images: [b 32 32 3] in [0, 1].
    tokens: [b m]; row i is the caption of image i, every other one is wrong.

  Returns:
    A scalar.
  """
  _, image = emoji.image_features(params, images)
  text = emoji.token_embedding(params, tokens)
  logits = jnp.exp(jnp.minimum(params["log_scale"], 4.6)) * image @ text.T
  own = jnp.diagonal(logits)
  rows = jax.nn.logsumexp(logits, axis=0) + jax.nn.logsumexp(logits, axis=1)
  return jnp.mean(rows / 2 - own)


def order(rng: np.random.Generator, count: int, batch: int) -> Iterator:
  """Endless batches of indices [batch]: shuffled runs of neighbours."""
  while True:
    turned = np.roll(np.arange(count), rng.integers(RUN))
    runs = turned[: count // RUN * RUN].reshape(-1, RUN)
    whole = rng.permutation(runs).reshape(-1)
    yield from whole[: len(whole) // batch * batch].reshape(-1, batch)


def train(
  images: np.ndarray, captions: Sequence[str], arguments: argparse.Namespace
) -> Params:
  """AdamW with warm-up and cosine decay; returns the last weights."""
  key = jax.random.key(arguments.seed)
  params = emoji.init(key)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, arguments.rate, arguments.steps // 20, arguments.steps
  )
  transform = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(schedule, b2=0.98, weight_decay=arguments.decay),
  )
  moments = transform.init(params)
  pairs, tokens = shrink(images), emoji.tokenize(captions)

  @jax.jit
  def update(params, moments, pairs, tokens, step):
    pictures = augment(jax.random.fold_in(key, step), pairs)
    nats, slope = jax.value_and_grad(loss)(params, pictures, tokens)
    changes, moments = transform.update(slope, moments, params)
    return optax.apply_updates(params, changes), moments, nats

  rng = np.random.default_rng(arguments.seed)
  batches = order(rng, len(images), arguments.batch)
  with tqdm.trange(arguments.steps) as steps:
    for step in steps:
      rows = next(batches)
      params, moments, nats = update(
        params, moments, pairs[rows], tokens[rows], step
      )
      if step % 20 == 0:
        steps.set_postfix(nats=f"{nats:.3f}")
  return params


def score(params: Params, split: str, size: int) -> dict[str, float]:
  """Retrieval of each picture's caption among those of its split."""
  images, captions = join(data.SPLITS if split == "all" else (split,))
  if size != data.CELL:
    k = data.CELL // size
    images = images.reshape(len(images), size, k, size, k, 3).mean((2, 4))
  state = retrieval.init()
  run = jax.jit(emoji.image_features)
  for i in range(0, len(images), 256):
    _, image = run(params, images[i : i + 256] / np.float32(255.0))
    text = emoji.text_embedding(params, captions[i : i + 256])
    batch = {"image_embedding": image, "text_embedding": text}
    state = retrieval.update(state, batch)
  numbers = {k: round(v, 4) for k, v in retrieval.compute(state).items()}
  return {"split": split, "size": size, "pictures": len(images), **numbers}


def main() -> None:
  """Trains, writes, prints one JSON row a score."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--splits", default=",".join(data.SPLITS))
  parser.add_argument("--output", type=pathlib.Path, default=emoji.WEIGHTS)
  parser.add_argument("--steps", type=int, default=600)
  parser.add_argument("--batch", type=int, default=256)
  parser.add_argument("--rate", type=float, default=3e-3)
  parser.add_argument("--decay", type=float, default=0.02)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  images, captions = join(arguments.splits.split(","))
  emoji.save(train(images, captions, arguments), arguments.output)
  params = emoji.load(arguments.output)
  for split, size in (("all", 64), ("all", 32), ("train", 32)):
    print(json.dumps(score(params, split, size)))
  for split in ("validation", "heldout"):
    print(json.dumps(score(params, split, 32)))


if __name__ == "__main__":
  main()
