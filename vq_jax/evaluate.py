"""Streams images, tokens and samples through metrics."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import pipeline, plugins
from vq_jax.data import _loader
from vq_jax.features import Features
from vq_jax.tokenizer import losses
from vq_jax.types import Batch, Key, Params

Source = Sequence[Mapping[str, Any]]
States = dict[str, Any]  # Of metrics, by name.
# What a network of vq_jax/features gives -> what metrics call it, of a kind.
OUTPUTS = {
  "pool": "features",
  "logits_unbiased": "logits",
  "embedding": "embedding",
}


def fold(
  metrics: Mapping[str, Mapping[str, Any]], batches: Iterable[Batch]
) -> dict[str, float]:
  """Runs every metric over the batches, once.

  Args:
    metrics: name -> options of its `init`.
    batches: with the keys that the metrics read.

  Returns:
    All their numbers in one flat dict.

  Raises:
    ValueError: unknown metric or option; before the first batch is made.
  """
  return finish(feed(start(metrics), batches))


def start(metrics: Mapping[str, Mapping[str, Any]]) -> States:
  """The states of metrics that have seen nothing: see `fold`."""
  folds = {name: plugins.resolve("metrics", name) for name in metrics}
  return {
    name: plugins.call(folds[name].init, options, f"metric {name}")
    for name, options in metrics.items()
  }


def feed(states: States, batches: Iterable[Batch]) -> States:
  """The states after these batches too."""
  states = dict(states)
  folds = {name: plugins.resolve("metrics", name) for name in states}
  for batch in batches:
    for name, module in folds.items():
      states[name] = module.update(states[name], batch)
  return states


def finish(states: States) -> dict[str, float]:
  """All their numbers in one flat dict."""
  numbers: dict[str, float] = {}
  for name, state in states.items():
    numbers |= plugins.resolve("metrics", name).compute(state)
  return numbers


def reconstructions(
  tokenizer: Any,
  params: Params,
  source: Source,
  batch: int,
  limit: int | None = None,
) -> Iterator[dict]:
  """Batches of real, fake in [0, 1], ids, caption, mask.

  Ids are checked by the codebook metric; images come in the source's order.
  """

  @jax.jit
  def both(params: Params, images: jax.Array) -> tuple:
    outputs, codes = tokenizer.apply(
      {"params": params}, pipeline.to_float(images)
    )
    return pipeline.to_unit(outputs), codes.ids

  for rows in _loader.padded(source, ("image", "caption"), batch, limit):
    fake, ids = both(params, rows["image"])
    yield {
      "real": rows["image"].astype(np.float32) / 255.0,
      "fake": np.asarray(fake),
      "ids": np.asarray(ids),
      "caption": rows["caption"],
      "mask": rows["mask"],
    }


def densities(
  tokenizer: Any,
  params: Params,
  source: Source,
  batch: int,
  limit: int | None = None,
  **options: Any,
) -> Iterator[dict]:
  """Batches of pixel_nats, mask: images under a tokenizer with `logsigma`.

  Args:
    tokenizer: a Linen tokenizer with a likelihood head.
    params: its weights.
    source: of images, and of their ids, where those are known already.
    batch: examples at a time.
    limit: at most that many examples.
    **options: of `losses.pixel_nats`.

  Yields:
    Numpy arrays with a leading axis of `batch`.
  """

  @jax.jit
  def score(params: Params, pixels: jax.Array, ids: jax.Array | None):
    images = pipeline.to_float(pixels)
    if ids is None:
      ids = pipeline.encode(tokenizer, params, pixels)
    normal = tokenizer.apply({"params": params}, ids, method="gaussian")
    return losses.pixel_nats(images, *normal, **options)

  keys = [key for key in ("image", "ids") if key in source[0]]
  for rows in _loader.padded(source, keys, batch, limit):
    nats = score(params, rows["image"], rows.get("ids"))
    yield {"pixel_nats": np.asarray(nats), "mask": rows["mask"]}


def originals(
  source: Source, batch: int, limit: int | None = None
) -> Iterator[dict]:
  """Batches of real in [0, 1], caption, mask, in the source's order."""
  for rows in _loader.padded(source, ("image", "caption"), batch, limit):
    real = rows.pop("image").astype(np.float32) / 255.0
    yield {"real": real, **rows}


def featured(batch: Batch, network: Features, kinds: Sequence[str]) -> dict:
  """A batch with what a network sees in its images, as metrics read it.

  Args:
    batch: with images [b h w c] in [0, 1] under the names in `kinds`; the
      network is given them as bytes, as a file would have them.
    network: from `features.make`.
    kinds: "real", "fake" or both.

  Returns:
    The batch with `lpips` [b] of the pairs, if the network has distances; else
    with `<kind>_features`, and where the network has them, `<kind>_logits`,
    `<kind>_embedding`, `image_embedding` (that of the last kind), and
    `text_embedding` of captions.
  """
  images = {kind: pipeline.to_uint8(batch[kind]) for kind in kinds}
  if network.distances:
    return {**batch, "lpips": np.asarray(network.distances(*images.values()))}
  seen = dict(batch)
  for kind in kinds:
    for name, value in network.images(images[kind]).items():
      seen[f"{kind}_{OUTPUTS[name]}"] = np.asarray(value)
    if f"{kind}_embedding" in seen:
      seen["image_embedding"] = seen[f"{kind}_embedding"]
  if network.texts and "caption" in batch:
    seen["text_embedding"] = np.asarray(network.texts(batch["caption"]))
  return seen


class Look(NamedTuple):
  """A network, and metrics of what it sees."""

  network: Features
  states: States


def look(
  looks: Iterable[Look], batches: Iterable[Batch], kinds: Sequence[str]
) -> list[Look]:
  """The looks after these batches too: each network sees every batch, once.

  See `featured`. A network without metrics is left out.
  """
  looks = [found for found in looks if found.states]
  for batch in batches if looks else ():
    looks = [
      Look(network, feed(states, [featured(batch, network, kinds)]))
      for network, states in looks
    ]
  return looks


def seen(looks: Iterable[Look], split: str = "") -> dict[str, float]:
  """The numbers of all looks: <network>_<split>_<number>.

  A number that bears the name of its network, as `clip_score`, has it once.
  """
  numbers = {}
  for network, states in looks:
    for key, value in finish(states).items():
      words = [network.name, split, key]
      if f"{key}_".startswith(f"{network.name}_"):
        words = [split, key]
      numbers["_".join(filter(None, words))] = value
  return numbers


def bits(
  model: Callable[[Params, Any], Any],
  params: Params,
  prior: Any,
  source: Source,
  key: Key,
  *,
  keys: Sequence[str],
  batch: int,
  limit: int | None = None,
) -> Iterator[dict]:
  """Batches of ids, bits per token, mask: the likelihood bound of a prior.

  Example i is scored with the key (key, i), whatever its batch.

  Args:
    model: (params, {key: [b ..]} for `keys`) -> Model.
    params: of the net.
    prior: with a method `bits`.
    source: of tokens.
    key: of the noise.
    keys: what the model is asked for: "label", "words" or "features".
    batch: examples at a time.
    limit: at most that many examples.

  Yields:
    Numpy arrays with a leading axis of `batch`.
  """

  @jax.jit
  def score(params: Params, rows: dict, first: jax.Array) -> jax.Array:
    def one(i: jax.Array, row: dict) -> jax.Array:
      row = jax.tree.map(lambda x: x[None], row)
      view = model(params, {name: row[name] for name in keys})
      return prior.bits(jax.random.fold_in(key, i), view, row["ids"])[0]

    return jax.vmap(one)(first + jnp.arange(batch), rows)

  rows_of = _loader.padded(source, ("ids", *keys), batch, limit)
  for number, rows in enumerate(rows_of):
    mask = rows.pop("mask")
    value = score(params, rows, jnp.int32(number * batch))
    yield {"ids": rows["ids"], "bits": np.asarray(value), "mask": mask}


def samples(
  ids_of: Callable[[np.ndarray], jax.Array],
  paint: Callable[[jax.Array], jax.Array],
  count: int,
  batch: int,
) -> Iterator[dict]:
  """Batches of fake in [0, 1], ids, index, mask: images 0..count-1 of a run.

  ids_of: image numbers [b] -> ids [b n]; paint: ids -> images [b h w c].
  """
  for first in range(0, count, batch):
    index = np.arange(first, first + batch)
    ids = ids_of(index)
    fake = np.asarray(paint(ids))
    yield {
      "fake": fake,
      "ids": np.asarray(ids),
      "index": index,
      "mask": index < count,
    }
