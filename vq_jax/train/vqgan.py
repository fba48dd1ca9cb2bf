"""Stage 1: the tokenizer, trained to reconstruct, to commit, and to deceive."""

import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vq_jax import evaluate, pictures, pipeline, plugins
from vq_jax.data import _loader
from vq_jax.features import Features, lpips
from vq_jax.tokenizer import _gumbel, losses, quantize
from vq_jax.train import _adversary, codebook, compare, optimizer
from vq_jax.train.task import State, Task, apply_gradients, new_state
from vq_jax.types import Array, Batch, Key, Metrics, Params

Config = Mapping[str, Any]
EVALUATED = ("psnr", "l1")  # While training; `measure` adds the slow ones.


def make_task(config: Config) -> Task:
  """A tokenizer of `config.tokenizer` for the images of `config.data`."""
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  codebook.check(tokenizer, config)
  optimizer.check_average(config["ema"])
  transform = plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  train, validation = (
    plugins.build("data", "source", config["data"], "config.data", split)
    for split in ("train", "validation")
  )
  check_size(tokenizer, train)
  objective = make_loss(**config["loss"])
  gan = _adversary.make_gan(config)
  return Task(
    init=lambda key: _init(tokenizer, transform, gan, key),
    update=make_update(tokenizer, transform, objective, config, gan),
    source=train,
    inputs=("image",),
    evaluate=lambda state: _evaluate(tokenizer, config, validation, state),
    pictures={
      "reconstructions": lambda state: _pairs(tokenizer, validation, state),
      "codebook": lambda state: codebook.picture(
        tokenizer, config, validation, state.ema
      ),
    },
    warm=codebook.kmeans_start(tokenizer, config, train),
  )


def check_size(tokenizer: Any, source: Any) -> None:
  """ValueError unless the images have the size that the tokenizer is for."""
  h, w = source[0]["image"].shape[:2]
  side = tokenizer.image_size
  if (h, w) != (side, side):
    raise ValueError(
      f"config.data makes images of {w} x {h} pixels, but"
      f" config.tokenizer.image_size is {side}; give both the same size."
    )


def make_loss(*, lpips_weights: str = "", **terms: float):
  """(images, outputs [b h w c] in [-1, 1], codes) -> (scalar, metrics).

  Args:
    lpips_weights: file with LPIPS weights; empty trains on pixels alone.
    **terms: weights of `losses.stage_one`.

  Raises:
    ValueError: an unknown weight.
  """
  perceptual = None
  if lpips_weights:
    frozen = lpips.load(lpips_weights)
    perceptual = lambda x, y: lpips.distance(frozen, x, y)  # noqa: E731
  legal = ("l1", "l2", "perceptual_weight", "vq_weight")
  for name in terms:
    if name not in legal:
      raise ValueError(plugins.unknown(name, legal, "config.loss has no key"))

  def objective(
    images: Array, outputs: Array, codes: Any
  ) -> tuple[Array, Metrics]:
    return losses.stage_one(
      images, outputs, codes.loss, perceptual=perceptual, **terms
    )

  return objective


def make_update(
  tokenizer: Any,
  transform: optax.GradientTransformation,
  objective: Any,
  config: Config,
  gan: _adversary.GAN | None = None,
):
  """(state, batch, key) -> (state, metrics), pure.

  State.extra is the `codebook.CodebookState`; with a discriminator, (that,
  `_adversary.DiscriminatorState`).
  """
  size = tokenizer.vocab_size
  temperature = _gumbel.make_temperature(config.get("temperature", {}))
  codebook_step = codebook.make_codebook_step(tokenizer, config["revive_after"])

  def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    key_flip, key_drop, key_draw, key_revive, key_gan = jax.random.split(key, 5)
    images = pipeline.to_float(batch["image"])
    if config["flip"]:
      images = flip(key_flip, images)

    def network(params: Params) -> tuple[Array, Any]:
      return tokenizer.apply(
        {"params": params},
        images,
        train=True,
        temperature=temperature(state.step),
        rngs={"dropout": key_drop, "gumbel": key_draw},
      )

    parts = network, functools.partial(objective, images), state.params
    code_state, d_state = state.extra if gan else (state.extra, None)
    if gan:
      grads, metrics, codes, d_state = _adversary.gan_step(
        gan, *parts, d_state, images, key_gan, state.step
      )
    else:
      grads, metrics, codes = _gradients(*parts)
    params, moments = apply_gradients(transform, grads, metrics["loss"], state)
    params, old, code_state, revived = codebook_step(
      key_revive, code_state, state.params, params, state.ema, codes
    )
    counts = quantize.histogram(codes.ids, size)
    metrics |= {
      **revived,
      "codebook_usage": quantize.usage(counts),
      "codebook_perplexity": quantize.perplexity(counts),
    }
    step = state.step + 1
    ema = optimizer.average(old, params, step, **config["ema"])
    extra = (code_state, d_state) if gan else code_state
    new = State(step, state.ok, params, ema, moments, extra)
    return new, metrics

  return update


def _gradients(
  network: Any, objective: Any, params: Params
) -> tuple[Params, Metrics, Any]:
  """Gradients, metrics and codes without a discriminator."""

  def loss(params: Params) -> tuple[Array, tuple]:
    outputs, codes = network(params)
    total, metrics = objective(outputs, codes)
    return total, (metrics, codes)

  grads, (metrics, codes) = jax.grad(loss, has_aux=True)(params)
  return grads, {**metrics, "grad_norm": optax.tree.norm(grads)}, codes


def flip(key: Key, images: Array) -> Array:
  """config.flip: mirrors each image [b h w c] with probability 1/2."""
  heads = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
  return jnp.where(heads, images[:, :, ::-1], images)


def initial(config: Config) -> Callable[[Key], Params]:
  """Key -> fresh weights of config.tokenizer."""
  return functools.partial(
    pipeline.init_tokenizer, pipeline.build_tokenizer(config["tokenizer"])
  )


def measure(
  config: Config, workdir: pathlib.Path, mesh: Mesh, params: Params
) -> dict[str, float]:
  """Reconstruction of the validation images, and how well they fit captions."""
  del workdir, mesh
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  source = plugins.build(
    "data", "source", config["data"], "config.data", "validation"
  )
  networks = compare.load(config["evaluate"])
  batch = config["evaluate"]["batch"]
  looks = _looks(networks, _captioned)
  looks = evaluate.look(looks, evaluate.originals(source, batch), ("real",))
  originals = evaluate.seen(looks)
  metrics = {metric: {} for metric in (*EVALUATED, "ssim")}
  metrics["codebook"] = {"vocab_size": tokenizer.vocab_size}
  states, looks = evaluate.start(metrics), _looks(networks, _paired)
  for rows in evaluate.reconstructions(tokenizer, params, source, batch):
    states = evaluate.feed(states, [rows])
    looks = evaluate.look(looks, [rows], ("real", "fake"))
  numbers = evaluate.finish(states) | evaluate.seen(looks)
  numbers |= {f"{key}_of_originals": originals[key] for key in originals}
  # Of reconstructions it is called rFID.
  numbers = {re.sub("_fd$", "_rfd", key): numbers[key] for key in numbers}
  told = {"split": "validation", "reference_images": len(source)}
  return numbers | told | compare.told(networks)


def _captioned(network: Features) -> Sequence[str]:
  """Metrics of images and their captions."""
  return ("retrieval",) if network.texts else ()


def _paired(network: Features) -> Sequence[str]:
  """Metrics of images and their reconstructions."""
  return ("lpips",) if network.distances else ("frechet", *_captioned(network))


def _looks(
  networks: Sequence[Features], metrics: Callable[[Features], Sequence[str]]
) -> list[evaluate.Look]:
  """Networks, each with fresh metrics."""
  return [
    evaluate.Look(one, evaluate.start({name: {} for name in metrics(one)}))
    for one in networks
  ]


def _init(
  tokenizer: Any, transform: Any, gan: _adversary.GAN | None, key: Key
) -> State:
  params = pipeline.init_tokenizer(tokenizer, key)
  code_state = codebook.start(tokenizer)
  if gan is None:
    return new_state(params, transform.init(params), code_state)
  side = tokenizer.image_size
  shape = (side, side, tokenizer.image_channels)
  d_state = _adversary.init_discriminator(
    gan, shape, jax.random.fold_in(key, 1)
  )
  return new_state(params, transform.init(params), (code_state, d_state))


def _evaluate(
  tokenizer: Any, config: Config, source: Any, state: State
) -> dict[str, float]:
  metrics = {name: {} for name in EVALUATED}
  metrics["codebook"] = {"vocab_size": tokenizer.vocab_size}
  section = config["evaluate"]
  batches = evaluate.reconstructions(
    tokenizer, state.ema, source, section["batch"], section["limit"]
  )
  return evaluate.fold(metrics, batches)


def _pairs(tokenizer: Any, source: Any, state: State) -> np.ndarray:
  """Validation images spread over the whole split, above reconstructions."""
  spread = np.linspace(0, len(source) - 1, min(len(source), 48)).astype(int)
  rows = _loader.stack([source[int(i)] for i in spread], ("image", "caption"))
  shown = [dict(image=i, caption="") for i in rows["image"]]
  batch = next(
    evaluate.reconstructions(tokenizer, state.ema, shown, len(shown))
  )
  return pictures.pairs(
    rows["image"], pipeline.to_uint8(batch["fake"]), columns=16
  )
