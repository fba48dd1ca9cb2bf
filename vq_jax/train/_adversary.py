"""The discriminator in training: its section, its state, its update."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vq_jax import plugins
from vq_jax.tokenizer import adversarial, augment, discriminator
from vq_jax.train import optimizer
from vq_jax.types import Array, Key, Metrics, Params

Config = Mapping[str, Any]


class DiscriminatorState(NamedTuple):
  """What the discriminator carries from update to update.

  Attributes:
    params: its weights.
    statistics: of its norms, see `discriminator`.
    optimizer: its optimizer's state.
  """

  params: Params
  statistics: Params
  optimizer: Any


@dataclasses.dataclass(frozen=True)
class Adversary:
  """config.adversarial. The defaults are those of arXiv:2111.12701.

  Attributes:
    loss: one of `adversarial.LOSSES`.
    start: updates before the discriminator is trained and counts.
    lambda_max: see `adversarial.adaptive_weight`.
    factor: see there.
    layers: of the discriminator.
    channels: of its first layer.
    norm: of the others, see `discriminator.Discriminator`.
    augment: what is done to all it sees, see `augment.AUGMENTATIONS`.
    r1: weight of the penalty on its slope at real images; 0 is none.
  """

  loss: str = "hinge"
  start: int = 30_001
  lambda_max: float = 1.0
  factor: float = 1.0
  layers: int = 3
  channels: int = 64
  norm: str = "batch"
  augment: tuple[str, ...] = ("colour", "translation")
  r1: float = 0.0

  def __post_init__(self) -> None:
    """Refuses what would fail, or do nothing, much later."""
    where = "config.adversarial"
    named = {
      "loss": ((self.loss,), adversarial.LOSSES),
      "norm": ((self.norm,), discriminator.NORMS),
      "augment": (self.augment, augment.AUGMENTATIONS),
    }
    for key, (names, legal) in named.items():
      for name in names:
        if name not in legal:
          raise ValueError(plugins.unknown(name, legal, f"{where}.{key} is"))
    for key in ("start", "lambda_max", "factor", "r1"):
      if getattr(self, key) < 0:
        raise ValueError(f"{where}.{key} is {getattr(self, key)}; 0 or more.")
    for key in ("layers", "channels"):
      if getattr(self, key) < 1:
        raise ValueError(f"{where}.{key} is {getattr(self, key)}; 1 or more.")

  @property
  def net(self) -> discriminator.Discriminator:
    """The module."""
    return discriminator.Discriminator(self.layers, self.channels, self.norm)

  def logits(
    self, params: Params, statistics: Params, images: Array
  ) -> tuple[Array, Params]:
    """Images [b h w c] -> (logits [b h' w'], the statistics after them)."""
    variables = {"params": params, "batch_stats": statistics}
    logits, changed = self.net.apply(
      variables, images, train=True, mutable=["batch_stats"]
    )
    return logits, changed["batch_stats"]

  def prepare(self, key: Key, images: Array) -> Array:
    """Images as the discriminator is to see them."""
    return augment.augment(key, images, self.augment)


class GAN(NamedTuple):
  """An adversary and how it is trained."""

  adversary: Adversary
  transform: optax.GradientTransformationExtraArgs


def make_gan(config: Config) -> GAN | None:
  """What config.adversarial and config.discriminator_optimizer say.

  Returns:
    None without a section `adversarial`, or where it is None.

  Raises:
    ValueError: an unknown key or name, a number out of range, or a section
      without the other.
  """
  section = config.get("adversarial")
  if section is None:
    if config.get("discriminator_optimizer") is not None:
      raise ValueError(
        "config.discriminator_optimizer trains nothing without"
        " config.adversarial; set that section too."
      )
    return None
  if config.get("discriminator_optimizer") is None:
    raise ValueError(
      "config.adversarial needs config.discriminator_optimizer, a section with"
      " the keys of config.optimizer."
    )
  return GAN(
    plugins.call(Adversary, section, "config.adversarial"),
    plugins.call(
      optimizer.make_optimizer,
      config["discriminator_optimizer"],
      "config.discriminator_optimizer",
      config["steps"],
    ),
  )


def init_discriminator(
  gan: GAN, shape: tuple[int, int, int], key: Key
) -> DiscriminatorState:
  """A fresh discriminator of images of that shape (h, w, c).

  Raises:
    ValueError: they are too small for its layers.
  """
  blank = jnp.zeros((1, *shape))
  variables = gan.adversary.net.init(key, blank, train=True)
  params, statistics = variables["params"], variables["batch_stats"]
  return DiscriminatorState(params, statistics, gan.transform.init(params))


def gan_step(
  gan: GAN,
  network: Any,
  objective: Any,
  params: Params,
  d_state: DiscriminatorState,
  images: Array,
  key: Key,
  step: Array,
) -> tuple[Params, Metrics, Any, DiscriminatorState]:
  """One round: the tokenizer's gradients, then the discriminator's update.

  The discriminator sees the reconstructions of *this* round, the very pixels
  that the tokenizer was judged by, and real images with changes of their own.
  Until `start` it is asked, not trained, and lambda is 0.

  Args:
    gan: from `make_gan`.
    network: see `adversarial.balanced_gradients`.
    objective: see there.
    params: of the tokenizer.
    d_state: the discriminator.
    images: [b h w c] in [-1, 1].
    key: of this round.
    step: updates done.

  Returns:
    Gradients, metrics, codes, and the discriminator after its update.
    `grad_norm` is of both networks: a NaN in either stops the run. What is
    unknown before `start` is NaN, which no log shows.
  """
  adversary = gan.adversary
  key_fake, key_real = jax.random.split(key)
  _, generator_loss = adversarial.LOSSES[adversary.loss]

  def generator(outputs: Array) -> tuple[Array, tuple]:
    fake = adversary.prepare(key_fake, outputs)
    logits, statistics = adversary.logits(*d_state[:2], fake)
    return generator_loss(logits), (fake, statistics)

  started = step >= adversary.start
  found = adversarial.balanced_gradients(
    network,
    objective,
    generator,
    params,
    counts=started.astype(jnp.float32),
    lambda_max=adversary.lambda_max,
    factor=adversary.factor,
  )
  fake, statistics = found.seen
  d_state = d_state._replace(statistics=statistics)
  real = adversary.prepare(key_real, images)
  d_step = functools.partial(_discriminator_step, gan)
  d_state, told = jax.lax.cond(started, d_step, _no_step, d_state, real, fake)
  norms = (optax.tree.norm(found.grads), told.pop("d_grad_norm"))
  metrics = {**found.metrics, **told, "grad_norm": jnp.hypot(*norms)}
  return found.grads, metrics, found.codes, d_state


def _discriminator_step(
  gan: GAN, d_state: DiscriminatorState, real: Array, fake: Array
) -> tuple[DiscriminatorState, Metrics]:
  """An update of the discriminator: real images first, as released."""
  adversary = gan.adversary
  discriminator_loss, _ = adversarial.LOSSES[adversary.loss]

  def loss(params: Params) -> tuple[Array, tuple]:
    on_real, statistics = adversary.logits(params, d_state.statistics, real)
    on_fake, statistics = adversary.logits(params, statistics, fake)
    value = discriminator_loss(on_real, on_fake)
    if adversary.r1:
      logits = lambda x: adversary.logits(params, d_state.statistics, x)[0]  # noqa: E731
      value = value + adversary.r1 * adversarial.r1_penalty(logits, real)
    return value, (statistics, jnp.mean(on_real), jnp.mean(on_fake))

  (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(d_state.params)
  statistics, on_real, on_fake = rest
  updates, moments = gan.transform.update(
    grads, d_state.optimizer, d_state.params, value=value
  )
  params = optax.apply_updates(d_state.params, updates)
  metrics = {
    "d_loss": value,
    "d_grad_norm": optax.tree.norm(grads),
    "logits_real": on_real,
    "logits_fake": on_fake,
  }
  return DiscriminatorState(params, statistics, moments), metrics


def _no_step(
  d_state: DiscriminatorState, real: Array, fake: Array
) -> tuple[DiscriminatorState, Metrics]:
  """No update, and nothing to tell."""
  del real, fake
  unknown = jnp.float32(jnp.nan)
  told = dict.fromkeys(("d_loss", "logits_real", "logits_fake"), unknown)
  return d_state, {**told, "d_grad_norm": jnp.float32(0.0)}
