"""Stage 1b: how sure a tokenizer is of its pixels; then bits per dimension.

Trains the head `logsigma` of a tokenizer, and nothing else, to give images
given their tokens a high density (arXiv:2111.12701, section 4.1.1).
"""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vq_jax import evaluate, pictures, pipeline, plugins, weights
from vq_jax.data import _loader, tokens
from vq_jax.tokenizer import losses
from vq_jax.train import optimizer, vqgan
from vq_jax.train.task import State, Task, apply_gradients, new_state
from vq_jax.types import Array, Batch, Key, Metrics, Params

Config = Mapping[str, Any]
HEAD = "decoder/logsigma/"
GIVEN = ("images", "mean", "log_sigma")  # Not from a config.
SHOWN = 16  # Images in the picture of a training run.

initial = vqgan.initial


def make_task(config: Config) -> Task:
  """The head of `config.tokenizer`, for the images of `config.data`."""
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  check(config, tokenizer)
  optimizer.check_average(config["ema"])
  transform = plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  train, validation = (_source(config, s) for s in ("train", "validation"))

  def init(key: Key) -> State:
    params = pipeline.init_tokenizer(tokenizer, key)
    return new_state(params, transform.init(params))

  return Task(
    init=init,
    update=make_update(tokenizer, transform, config),
    source=train,
    inputs=("image",),
    evaluate=lambda state: uniform(
      config, tokenizer, state.ema, validation, config["evaluate"]["limit"]
    ),
    pictures={
      "deviations": lambda state: _deviations(tokenizer, validation, state)
    },
  )


def check(config: Config, tokenizer: Any) -> None:
  """ValueError unless it is the head, and the head alone, that is trained."""
  plugins.check(losses.pixel_nats, config["loss"], "config.loss", GIVEN)
  if not tokenizer.logsigma or tokenizer.kept_codes:
    raise ValueError(
      "config.stage = 'likelihood' trains the head of a tokenizer with"
      " config.tokenizer.logsigma = true and all of its codes."
    )
  if not config["init_from"]:
    raise ValueError(
      "config.init_from is the run of the tokenizer whose head is trained; it"
      " is required."
    )
  if config["optimizer"].get("only") != "logsigma":
    raise ValueError(
      "config.optimizer.only must be 'logsigma': with other weights the tokens"
      " would change."
    )


def make_update(
  tokenizer: Any, transform: optax.GradientTransformation, config: Config
):
  """(state, batch, key) -> (state, metrics), pure."""
  options = config["loss"]

  def loss(params: Params, images: Array) -> Array:
    """Bits per dimension of a density: less than 0 is possible."""
    mean, codes = tokenizer.apply({"params": params}, images)
    mean = jax.lax.stop_gradient(mean)
    nats = losses.pixel_nats(images, mean, codes.log_sigma, **options)
    return jnp.mean(nats) / (math.log(2.0) * math.prod(images.shape[1:]))

  def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    images = pipeline.to_float(batch["image"])
    if config["flip"]:
      images = vqgan.flip(key, images)
    value, grads = jax.value_and_grad(loss)(state.params, images)
    params, moments = apply_gradients(transform, grads, value, state)
    step = state.step + 1
    ema = optimizer.average(state.ema, params, step, **config["ema"])
    metrics = {
      "loss": value,
      "grad_norm": optax.tree.norm(grads),
      "pixel_bits_per_dim": value + math.log2(_levels(options)),
    }
    return state._replace(
      step=step, params=params, ema=ema, optimizer=moments
    ), metrics

  return update


def uniform(
  config: Config,
  tokenizer: Any,
  params: Params,
  source: Sequence[Mapping[str, Any]],
  limit: int | None = None,
) -> dict[str, float]:
  """Bits per dimension where every token costs log2 K: a prior of no knowledge.

  What a trained prior saves is the difference to `of_prior`.
  """
  bits = math.log2(tokenizer.prior_vocab_size)
  size = config["evaluate"]["batch"]
  found = evaluate.densities(
    tokenizer, params, source, size, limit, **config["loss"]
  )
  batches = (batch | {"bits": np.full(size, bits)} for batch in found)
  return _fold(tokenizer, source, config["loss"], batches)


def measure(
  config: Config, workdir: pathlib.Path, mesh: Mesh, params: Params
) -> dict[str, float]:
  """Bits per dimension of all validation images, without a prior."""
  del workdir, mesh
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  return uniform(config, tokenizer, params, _source(config, "validation"))


def of_prior(
  config: Config,
  workdir: pathlib.Path,
  ids: np.ndarray,
  scores: Iterable[Batch],
) -> dict[str, float]:
  """Bits per dimension of all validation images, if there is a head.

  Args:
    config: of a prior. config.evaluate.head, a directory of tokens, names a
      tokenizer that has the head where the run's own has none;
      config.evaluate.pixels are the options of `losses.pixel_nats`.
    workdir: its run.
    ids: tokens of the validation images [N n].
    scores: batches of bits, mask over all of them; not begun without a head.

  Returns:
    The numbers of `metrics.pixels`, given whatever the prior is told (classes,
    captions): an upper bound on -log2 p(image) per dimension.

  Raises:
    ValueError: the tokens have other images, or the head another tokenizer.
  """
  section = config["evaluate"]
  options = section.get("pixels", {})
  plugins.check(losses.pixel_nats, options, "config.evaluate.pixels", GIVEN)
  tokenizer, params = headed(workdir / "tokenizer", section.get("head", ""))
  if not getattr(tokenizer, "logsigma", False):
    return {}
  manifest = tokens.read_manifest(config["data"]["path"])
  source = Paired(_source(manifest, "validation"), ids)
  found = evaluate.densities(
    tokenizer, params, source, section["batch"], **options
  )
  both = zip(scores, found, strict=True)
  batches = (pixels | {"bits": rows["bits"]} for rows, pixels in both)
  return _fold(tokenizer, source, options, batches)


class Paired:
  """Images with the ids that they were given."""

  def __init__(self, images: Sequence[Mapping[str, Any]], ids: np.ndarray):
    if len(images) != len(ids):
      raise ValueError(
        f"There are tokens of {len(ids)} validation images, but {len(images)}"
        " such images; tokenize them again."
      )
    self.images, self.ids = images, ids

  def __len__(self) -> int:
    """Number of images."""
    return len(self.ids)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """Image and ids of example i."""
    return {"image": self.images[i]["image"], "ids": self.ids[i]}


def headed(own: pathlib.Path, head: str) -> tuple[Any, Params]:
  """(module, weights) of a run's tokenizer, with the head of another if given.

  Raises:
    ValueError: the two differ in more than a head, or the first can have none.
  """
  tokenizer, params = pipeline.load_tokenizer(own)
  if not head:
    return tokenizer, params
  if not hasattr(tokenizer, "logsigma"):
    raise ValueError(
      f"config.evaluate.head={head} is of a tokenizer of images, and that of"
      f" {own} has nothing that a head could read; leave it out."
    )
  other, theirs = pipeline.load_tokenizer(pathlib.Path(head) / "tokenizer")
  same = other.clone(logsigma=False) == tokenizer.clone(logsigma=False)
  a, b = (
    {k: v for k, v in weights.flatten(p).items() if not k.startswith(HEAD)}
    for p in (params, theirs)
  )
  if not same or any(not np.array_equal(a[name], b[name]) for name in a):
    raise ValueError(
      f"config.evaluate.head={head} holds another tokenizer than {own}; train"
      " its head with --config.stage=likelihood from that very tokenizer."
    )
  return other, theirs


def _fold(
  tokenizer: Any, source: Any, options: Mapping, batches: Iterable[Batch]
) -> dict[str, float]:
  h, w, c = source[0]["image"].shape
  sizes = {
    "tokens": (h // tokenizer.factor) * (w // tokenizer.factor),
    "dims": h * w * c,
    "levels": _levels(options),
  }
  return evaluate.fold({"pixels": sizes}, batches)


def _levels(options: Mapping[str, Any]) -> int:
  return options.get("levels", 256)


def _source(config: Config, split: str) -> Any:
  return plugins.build("data", "source", config["data"], "config.data", split)


def _deviations(tokenizer: Any, source: Any, state: State) -> np.ndarray:
  """Validation images above their deviations, white for the largest of all."""
  spread = np.linspace(0, len(source) - 1, min(len(source), SHOWN)).astype(int)
  images = _loader.stack([source[int(i)] for i in spread], ("image",))["image"]
  _, codes = jax.jit(tokenizer.apply)(
    {"params": state.ema}, pipeline.to_float(images)
  )
  sigma = jnp.exp(codes.log_sigma)
  return pictures.pairs(
    images, pipeline.to_uint8(sigma / sigma.max()), columns=16
  )
