"""Stage 2: a prior over the tokens that `--mode=tokenize` wrote."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vq_jax import evaluate, pictures, pipeline, plugins
from vq_jax.data import tokens
from vq_jax.train import layout, optimizer
from vq_jax.train.log import progress
from vq_jax.train.task import State, Task, apply_gradients, new_state
from vq_jax.types import Array, Batch, Condition, Key, Metrics, Model, Params

Config = Mapping[str, Any]
SHOWN = 32  # Samples in the picture of a training run.


def make_task(config: Config) -> Task:
  """A prior of `config.prior` with the network `config.net`."""
  net = pipeline.build_net(config["net"])
  prior = pipeline.build_prior(config["prior"])
  check_sizes(config, net, prior)
  optimizer.check_average(config["ema"])
  if config["label_dropout"] and not net.labels:
    raise ValueError(
      "config.label_dropout needs a conditional net: set config.net.labels."
    )
  transform = plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  train, validation = _source(config, "train"), _source(config, "validation")
  return Task(
    init=lambda key: _init(net, transform, key),
    update=make_update(net, prior, transform, config),
    source=train,
    inputs=("ids", "label"),
    evaluate=lambda state: bound(config, net, prior, validation, state.ema),
    pictures={"samples": make_picture(config, net, prior)},
  )


def check_sizes(config: Config, net: Any, prior: Any) -> None:
  """ValueError unless tokens, net and prior speak of the same codes."""
  manifest = tokens.read_manifest(config["data"]["path"])
  sizes = {
    "the tokens": (manifest["vocab_size"], tuple(manifest["grid"])),
    "config.net": (net.vocab_size, tuple(net.grid)),
    "config.prior": (prior.vocab_size, tuple(net.grid)),
  }
  if len(set(sizes.values())) > 1:
    told = "; ".join(
      f"{who}: K = {k}, grid {h} x {w}" for who, (k, (h, w)) in sizes.items()
    )
    raise ValueError(f"Sizes disagree. {told}.")


def viewer(net: Any):
  """(params, label [b]) -> Model; the label is dropped if nothing reads it."""

  def view(params: Params, label: Array, dropout: Key | None = None) -> Model:
    cond = Condition(label if net.labels else None)
    return pipeline.make_model(net, params, cond, dropout)

  return view


def make_update(
  net: Any,
  prior: Any,
  transform: optax.GradientTransformation,
  config: Config,
):
  """(state, batch, key) -> (state, metrics), pure."""
  view = viewer(net)
  drop = config["label_dropout"]

  def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    key_loss, key_label, key_drop = jax.random.split(key, 3)
    label = batch["label"]
    dropped = jax.random.bernoulli(key_label, drop, label.shape)
    label = jnp.where(dropped, net.labels, label)

    def loss(params: Params) -> tuple[Array, Metrics]:
      model = view(params, label, key_drop)
      target = view(state.ema, label)
      return prior.loss(key_loss, model, batch["ids"], target=target)

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
      state.params
    )
    params, moments = apply_gradients(transform, grads, state)
    step = state.step + 1
    ema = optimizer.average(state.ema, params, step, **config["ema"])
    metrics |= {"loss": value, "grad_norm": optax.tree.norm(grads)}
    return State(step, state.ok, params, ema, moments, ()), metrics

  return update


def bound(
  config: Config, net: Any, prior: Any, source: Any, params: Params
) -> dict[str, float]:
  """Validation bits per token beside the uniform and unigram bounds."""
  section = config["evaluate"]
  counts = np.bincount(
    _source(config, "train").columns["ids"].ravel(), minlength=prior.vocab_size
  )
  metrics = {
    "bits": {},
    "unigram": {"vocab_size": prior.vocab_size, "counts": counts},
  }
  batches = evaluate.bits(
    viewer(net),
    params,
    prior,
    source,
    jax.random.key(section["seed"]),
    batch=section["batch"],
    limit=section["limit"],
  )
  return evaluate.fold(metrics, batches)


def make_picture(config: Config, net: Any, prior: Any):
  """State -> a grid of samples, always of the same seeds."""
  directory = pathlib.Path(config["data"]["path"]) / "tokenizer"
  tokenizer, frozen = pipeline.load_tokenizer(directory)
  run = make_generator(config, net, prior)

  def draw(state: State) -> np.ndarray:
    ids = run(state.ema, np.arange(SHOWN))
    images = pipeline.decode(tokenizer, frozen, ids, net.grid)
    return pictures.grid(pipeline.to_uint8(images), columns=16)

  return draw


def make_generator(config: Config, net: Any, prior: Any, what: str = "sample"):
  """(params, image numbers [b]) -> ids [b n], compiled once.

  `what` is a function of the sampler's module: "sample" or "trajectory", which
  gives [b steps + 1 n]. Labels of a conditional net are drawn uniformly.
  """
  draw = pipeline.build_sampler(config["sampler"], prior, what)
  section = dict(config["sample"])
  seed = section.pop("seed")
  del section["count"], section["batch"]
  given = ("net", "params", "label")
  plugins.check(pipeline.adapt, section, "config.sample", given)
  key, key_label = jax.random.split(jax.random.key(seed))

  @jax.jit
  def run(params: Params, index: Array) -> Array:
    label = None
    if net.labels:
      keys = jax.vmap(lambda i: jax.random.fold_in(key_label, i))(index)
      label = jax.vmap(lambda k: jax.random.randint(k, (), 0, net.labels))(keys)
    return pipeline.generate(
      key,
      index,
      label,
      net=net,
      params=params,
      prior=prior,
      draw=draw,
      **section,
    )

  return run


def initial(config: Config) -> Callable[[Key], Params]:
  """Key -> fresh weights of config.net."""
  return functools.partial(pipeline.init_net, pipeline.build_net(config["net"]))


def measure(
  config: Config, workdir: pathlib.Path, mesh: Mesh, params: Params
) -> dict[str, float]:
  """Bits per token, and how samples compare with the training images."""
  net = pipeline.build_net(config["net"])
  prior = pipeline.build_prior(config["prior"])
  validation = _source(config, "validation")
  numbers = bound(config, net, prior, validation, params)
  section = config["sample"]
  layout.check_batch(section["batch"], mesh, "config.sample.batch")
  run = make_generator(config, net, prior)
  tokenizer, frozen = pipeline.load_tokenizer(workdir / "tokenizer")
  paint = jax.jit(lambda ids: pipeline.decode(tokenizer, frozen, ids, net.grid))
  name = config["evaluate"]["features"]
  extractor = plugins.resolve("features", name)
  manifest = tokens.read_manifest(config["data"]["path"])
  real = plugins.build(
    "data", "source", manifest["data"], "the data of the tokens", "train"
  )
  batch = section["batch"]
  fakes = evaluate.samples(
    lambda index: run(params, layout.place_batch({"i": index}, mesh)["i"]),
    paint,
    section["count"],
    batch,
  )
  fakes = progress(fakes, -(-section["count"] // batch), "sample")
  batches = itertools.chain(
    evaluate.featured(evaluate.originals(real, batch), extractor, ("real",)),
    evaluate.featured(fakes, extractor, ("fake",)),
  )
  quality = evaluate.fold({"frechet": {}, "prdc": {}}, batches)
  numbers |= {f"{name}_{key}": value for key, value in quality.items()}
  context = {"samples": section["count"], "sampler": config["sampler"]["name"]}
  return (
    numbers
    | context
    | {f"sampler_{k}": v for k, v in config["sampler"].items() if k != "name"}
  )


def _source(config: Config, split: str) -> tokens.Source:
  return plugins.build("data", "source", config["data"], "config.data", split)


def _init(net: Any, transform: Any, key: Key) -> State:
  params = pipeline.init_net(net, key)
  return new_state(params, transform.init(params))
