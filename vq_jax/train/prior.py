"""Stage 2: a prior over the tokens that `--mode=tokenize` wrote."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from vq_jax import evaluate, pictures, pipeline, plugins
from vq_jax.data import tokens
from vq_jax.system import (
  System,
  build_system,
  conditional_model,
  init_system,
)
from vq_jax.train import (
  compare,
  embeddings,
  frozen,
  layout,
  likelihood,
  neighbours,
  optimizer,
  quality,
  row,
)
from vq_jax.train.request import Requests, Worded, read_tokens, worded
from vq_jax.train.sampling import (
  check_sampling,
  make_generator,
  make_paint,
  make_painter,
  network_calls,
)
from vq_jax.train.task import State, Task, apply_gradients, new_state
from vq_jax.types import Array, Batch, Key, Metrics, Model, Params

Config = Mapping[str, Any]
SHOWN = 32  # Samples in the picture of a training run,
COLUMNS = 16  # with as many in a row.


def make_task(config: Config) -> Task:
  """A prior of `config.prior` with the network `config.net`."""
  system = build_system(config)
  prior = pipeline.build_prior(config["prior"])
  check_sizes(config, system.net, prior)
  optimizer.check_average(config["ema"])
  transform = plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  fixed = frozen.load(system)
  train, validation = (
    worded(config, split, system.text) for split in ("train", "validation")
  )
  check_sampling(config, system, prior, fixed)
  return Task(
    init=lambda key: _init(system, prior, transform, fixed, config, key),
    update=make_update(system, prior, transform, config),
    source=train,
    inputs=("ids", *train.asked(system)),
    evaluate=lambda state: bound(
      config, system, prior, validation, state.ema | state.extra["frozen"]
    ),
    pictures={
      "samples": make_picture(config, system, prior),
      **embeddings.make_picture(prior),
    },
    warm=embeddings.start(config, system.net),
  )


def check_sizes(config: Config, net: Any, prior: Any) -> None:
  """ValueError unless tokens, net and prior speak of the same things."""
  manifest = tokens.read_manifest(config["data"]["path"])
  sizes = {
    "the tokens": (manifest["vocab_size"], tuple(manifest["grid"])),
    "config.net": (net.outputs or net.vocab_size, tuple(net.grid)),
    "config.prior": (prior.vocab_size, tuple(net.grid)),
  }
  if len(set(sizes.values())) > 1:
    told = "; ".join(
      f"{who}: K = {k}, grid {h} x {w}" for who, (k, (h, w)) in sizes.items()
    )
    raise ValueError(f"Sizes disagree. {told}.")
  check_labels(config, net)
  check_order(net, prior)
  embeddings.check(net, prior)
  steps = getattr(prior, "time_steps", None)
  if net.time == "learnt" and net.time_steps != steps:
    raise ValueError(
      f"config.net.time_steps is {net.time_steps}, the rows of a learnt table"
      f" of times, but config.prior.time_steps is {steps}."
    )


def check_order(net: Any, prior: Any) -> None:
  """ValueError unless the net looks back only where its prior needs that."""
  causal = getattr(prior, "causal", False)
  if net.causal != causal:
    raise ValueError(
      f"config.net.causal is {net.causal}, but {type(prior).__module__} needs"
      f" a net with causal={causal}."
    )


def check_labels(config: Config, net: Any) -> None:
  """ValueError if the tokens have a class that the net has not."""
  if not net.labels:
    return
  for split in ("train", "validation"):
    columns = read_tokens(config, split).columns
    if "label" not in columns:
      raise ValueError("config.net.labels needs tokens that have classes.")
    for extreme in (np.min(columns["label"]), np.max(columns["label"])):
      if not 0 <= extreme < net.labels:
        raise ValueError(
          f"The tokens have class {extreme}, config.net.labels = {net.labels}"
          f" only 0..{net.labels - 1}; set it to the number of classes."
        )


def make_update(
  system: System,
  prior: Any,
  transform: optax.GradientTransformation,
  config: Config,
):
  """(state, batch, key) -> (state, metrics), pure."""
  rate = config["condition"]["dropout"]

  def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    key_loss, key_null, key_drop = jax.random.split(key, 3)
    b = batch["ids"].shape[0]
    drop = jax.random.bernoulli(key_null, rate, (b,)) if rate else None
    fixed = state.extra["frozen"]

    def view(params: Params, dropout: Key | None = None) -> Model:
      return conditional_model(system, params | fixed, batch, drop, dropout)

    def loss(params: Params) -> tuple[Array, tuple[Metrics, Any]]:
      return prior.loss(
        key_loss,
        view(params, key_drop),
        batch["ids"],
        target=view(state.ema),
        memory=state.extra["memory"],
      )

    (value, (metrics, memory)), grads = jax.value_and_grad(loss, has_aux=True)(
      state.params
    )
    params, moments = apply_gradients(transform, grads, value, state)
    step = state.step + 1
    ema = optimizer.average(state.ema, params, step, **config["ema"])
    metrics |= {"loss": value, "grad_norm": optax.tree.norm(grads)}
    extra = state.extra | {"memory": memory}
    return State(step, state.ok, params, ema, moments, extra), metrics

  return update


def bound(
  config: Config, system: System, prior: Any, source: Worded, params: Params
) -> dict[str, float]:
  """Validation bits per token beside the uniform and unigram bounds."""
  section = config["evaluate"]
  counts = read_tokens(config, "train").counts(prior.vocab_size)
  metrics = {
    "bits": {},
    "unigram": {"vocab_size": prior.vocab_size, "counts": counts},
  }
  limit = section["limit"]
  batches = scores(config, system, prior, source, params, limit)
  numbers = evaluate.fold(metrics, batches)
  if getattr(prior, "embedded", False):
    numbers |= embeddings.measure(config, system, prior, source, params)
  return numbers


def scores(
  config: Config,
  system: System,
  prior: Any,
  source: Worded,
  params: Params,
  limit: int | None = None,
) -> Iterator[Batch]:
  """Batches of ids, bits per token, mask."""
  section = config["evaluate"]
  return evaluate.bits(
    functools.partial(conditional_model, system),
    params,
    prior,
    source,
    jax.random.key(section["seed"]),
    keys=source.asked(system),
    batch=section["batch"],
    limit=limit,
  )


def make_picture(config: Config, system: System, prior: Any):
  """State -> a grid of samples, always of the same seeds."""
  directory = pathlib.Path(config["data"]["path"]) / "tokenizer"
  paint = make_paint(directory, config, system)
  run = make_generator(config, system, prior)
  index = np.arange(SHOWN)
  request = Requests(config, system)(index)

  def draw(state: State) -> np.ndarray:
    params = state.ema | state.extra["frozen"]
    ids = run(params, index, request)
    images = pipeline.to_uint8(paint(ids))
    return pictures.grid(images, pictures.fitting(images, COLUMNS))

  return draw


def initial(config: Config) -> Callable[[Key], Params]:
  """Key -> fresh weights of all that is trained."""
  system = build_system(config)
  return functools.partial(init_system, system)


def measure(
  config: Config, workdir: pathlib.Path, mesh: Mesh, params: Params
) -> dict[str, float]:
  """Bits per token and dimension; how samples compare with images."""
  system = build_system(config)
  prior = pipeline.build_prior(config["prior"])
  params = params | frozen.load(system)
  validation = worded(config, "validation", system.text)
  # Both refuse before hours of sampling.
  neighbours.options(config["evaluate"])
  networks = compare.load(config["evaluate"])
  ids = validation.source.columns["ids"]
  every = scores(config, system, prior, validation, params)
  numbers = likelihood.of_prior(config, workdir, ids, every)
  numbers |= bound(config, system, prior, validation, params)
  section = config["sample"]
  layout.check_batch(section["batch"], mesh, "config.sample.batch")
  images = make_painter(config, workdir, mesh, system, prior, params)
  numbers |= quality.measure(config, workdir, system, images, networks)
  calls = network_calls(config, system, prior, params)
  return numbers | row.drawing(config) | calls


def _init(
  system: System,
  prior: Any,
  transform: Any,
  fixed: Params,
  config: Config,
  key: Key,
) -> State:
  params = init_system(system, key)
  memory = prior.memory() if hasattr(prior, "memory") else ()
  extra = {"memory": memory, "frozen": fixed}
  return new_state(params, transform.init(params), extra)
