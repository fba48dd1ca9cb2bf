"""A net, what conditions it, and their weights: from a request to a Model."""

import functools
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax import plugins
from vq_jax.types import Array, Cached, Condition, Key, Model, Params

Section = Mapping[str, Any]


class System(NamedTuple):
  """What stands between a request for an image and a Model.

  A request is a mapping with `label` [b] for nets with classes and `words`
  [b m], what the text encoder makes of captions, for nets with text; what it
  makes of those, `features` [b m d], may take their place. The weights are a
  mapping with `net`, `text` if there is an encoder, and `null` if the absence
  of a caption is learnt.

  Attributes:
    net: a Linen net.
    text: a Linen text encoder, or None.
    null: what stands for no condition: "learnt" is a row of the class table, or
      features [m d] (arXiv:2205.16007, section 3.1); "fixed" is the mean of the
      classes, or the empty caption, and needs no training.
  """

  net: Any
  text: Any | None
  null: str


def build_net(section: Section) -> Any:
  """config.net -> a Linen module (z, t, cond) -> logits."""
  return plugins.build("nets", "Net", section, "config.net")


def build_system(config: Section) -> System:
  """config.net, config.text and config.condition -> the parts, checked.

  Raises:
    ValueError: an unknown key; a net and an encoder that do not fit; a null
      that nothing would train.
  """
  section = config["condition"]
  plugins.call(check_condition, section, "config.condition")
  net = dict(config["net"])
  if net.get("labels"):
    learnt = section["null"] == "learnt"
    if net.get("null_label", learnt) != learnt:
      raise ValueError(
        "config.net.null_label and config.condition.null disagree; leave the"
        " first one out."
      )
    net["null_label"] = learnt
  net = build_net(net)
  text = None
  if "text" in config:
    text = plugins.build("text", "Encoder", config["text"], "config.text")
  dim = text.dim if text else 0
  if net.text_dim != dim:
    raise ValueError(
      f"config.net.text_dim is {net.text_dim}, but config.text gives features"
      f" of {dim}; set them alike."
    )
  conditional = bool(net.labels or text)
  if section["dropout"] and not conditional:
    raise ValueError(
      "config.condition.dropout needs a conditional net: set config.net.labels"
      " or config.text."
    )
  if conditional and section["null"] == "learnt" and not section["dropout"]:
    raise ValueError(
      "config.condition.null = 'learnt' is never trained without"
      " config.condition.dropout > 0; give it, or take null = 'fixed'."
    )
  return System(net, text, section["null"])


def check_condition(dropout: float, null: str) -> None:
  """ValueError unless the section makes sense."""
  if not 0 <= dropout <= 1:
    raise ValueError(f"config.condition.dropout is {dropout}, not in [0, 1].")
  if null not in ("learnt", "fixed"):
    raise ValueError(
      f"config.condition.null is 'learnt' or 'fixed', not {null!r}."
    )


def blank(net: Any, b: int) -> Array:
  """A state z of the right shape: ids [b n], or embeddings [b n d]."""
  n, dim = int(np.prod(net.grid)), getattr(net, "code_dim", 0)
  return jnp.zeros((b, n, dim)) if dim else jnp.zeros((b, n), jnp.int32)


def init_net(net: Any, key: Key) -> Params:
  """Fresh weights."""
  z = blank(net, 1)
  label = jnp.zeros(1, jnp.int32) if net.labels else None
  text = jnp.zeros((1, 1, net.text_dim)) if net.text_dim else None
  return net.init(key, z, jnp.zeros(1), Condition(label, text))["params"]


def init_system(system: System, key: Key) -> Params:
  """Fresh weights of all that is trained."""
  key_net, key_text, key_null = jax.random.split(key, 3)
  params = {"net": init_net(system.net, key_net)}
  text = system.text
  if text and not frozen_text(text):
    words = jnp.zeros((1, text.length), jnp.int32)
    params["text"] = text.init(key_text, words)["params"]
  if text and system.null == "learnt":
    params["null"] = jax.random.normal(key_null, (text.length, text.dim))
  return params


def module_of(text: Any) -> ModuleType:
  """The file that defines a text encoder."""
  return sys.modules[type(text).__module__]


def frozen_text(text: Any) -> bool:
  """Whether an encoder's weights come from a file and are never trained."""
  return module_of(text).FROZEN


def condition(
  system: System,
  params: Params,
  request: Mapping[str, Array],
  drop: Array | None = None,
) -> Condition:
  """What the net is told about each image; nothing where `drop` [b] is set."""
  net, encoder = system.net, system.text
  label = text = None
  if net.labels:
    label = request["label"]
    if drop is not None:
      label = jnp.where(drop, net.labels, label)
  if encoder:
    text = _features(system, params, request, drop)
    if drop is not None and system.null == "learnt":
      text = jnp.where(drop[:, None, None], params["null"], text)
  return Condition(label, text)


def _features(
  system: System,
  params: Params,
  request: Mapping[str, Array],
  drop: Array | None,
) -> Array:
  """Of captions [b m d]; a fixed null is the empty one where `drop` is set."""
  run = functools.partial(system.text.apply, {"params": params["text"]})
  empty = None
  if drop is not None and system.null == "fixed":
    empty = system.text.words([""])
  if "features" not in request:
    words = request["words"]
    if empty is not None:
      words = jnp.where(drop[:, None], empty, words)
    return run(words)
  text = request["features"].astype(jnp.float32)
  if empty is not None:
    text = jnp.where(drop[:, None, None], run(empty), text)
  return text


def conditional_model(
  system: System,
  params: Params,
  request: Mapping[str, Array],
  drop: Array | None = None,
  dropout: Key | None = None,
) -> Model:
  """`make_model` of the system's net under `condition`."""
  cond = condition(system, params, request, drop)
  return make_model(system.net, params["net"], cond, dropout)


def make_model(
  net: Any, params: Params, cond: Condition, dropout: Key | None = None
) -> Model:
  """Closes a network over weights and condition; a dropout key trains it."""
  rngs = None if dropout is None else {"dropout": dropout}

  def denoise(z: Array, t: Array) -> Array:
    logits = net.apply(
      {"params": params}, z, t, cond, train=dropout is not None, rngs=rngs
    )
    return jax.nn.log_softmax(logits)

  causal = getattr(net, "causal", False)  # Nets need not say that they are not.
  cached = make_cached(net, params, cond) if causal else None
  return Model(denoise, params.get("codes"), cached)


def make_cached(net: Any, params: Params, cond: Condition) -> Cached:
  """A causal net, token by token."""

  def start(b: int) -> Params:
    # A call at 0, whose part of the past the first step writes again.
    blank = jnp.zeros((b, 1), jnp.int32)
    kept = ["once", "past"]
    _, cache = net.apply(
      {"params": params}, blank, None, cond, index=0, mutable=kept
    )
    return cache

  def step(cache: Params, token: Array, i: Array, t: Array):
    logits, past = net.apply(
      {"params": params, **cache},
      token[:, None],
      t,
      cond,
      index=i,
      mutable=["past"],
    )
    return jax.nn.log_softmax(logits[:, 0]), {**cache, **past}

  return Cached(start, step)
