"""Every config is a set of legal constructor calls, sweeps included."""

import importlib
import inspect
import json
import pathlib
import re

import jax
import pytest

from vq_jax import pipeline, plugins
from vq_jax.system import build_system
from vq_jax.train import (
  _adversary,
  actions,
  checkpoint,
  embeddings,
  feed,
  judging,
  layout,
  likelihood,
  loop,
  optimizer,
  protocols,
  sampling,
  vqgan,
)
from vq_jax.train import prior as prior_stage

ROOT = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem[0] != "_")
VARIANTS = {
  "emoji32_vqgan": ("ema", "gumbel", "fsq", "lfq"),
  "vq_diffusion": ("coco", "cub", "ithq", "imagenet", "ffhq"),
  "absorbing": ("ffhq", "churches", "bedroom"),
  "autoregressive": ("ffhq", "churches", "bedroom"),
  "lcmd": ("ffhq", "churches", "bedroom", "imagenet"),
  "lcmd_text": ("lcmd", "absorbing", "autoregressive"),
  "emoji32_samplers": ("corrector", "fewer_tokens", "halton", "remask"),
  "d3pm": ("ffhq", "churches", "bedroom", "imagenet"),
  "maskgit": ("ffhq", "churches", "bedroom", "imagenet"),
}
CASES = [
  (name, arg)
  for name in NAMES
  for arg in ("", "smoke", *VARIANTS.get(name, ()))
]


def module(name):
  return importlib.import_module(f"configs.{name}")


def resolved(name, arg=""):
  """A config as `vq_jax.main` passes it on."""
  return json.loads(module(name).get_config(arg).to_json())


def points(name, arg=""):
  """(overrides, the config with them) of a sweep."""
  found = []
  getattr(module(name), "sweep", lambda add: None)(found.append)
  for overrides in found:
    config = module(name).get_config(arg)
    config.lock()
    config.update_from_flattened_dict(overrides)
    yield overrides, json.loads(config.to_json())


def check_source(config):
  """config.data, and that what --mode=tokenize writes can be trained on."""
  source = plugins.resolve("data", config["data"]["name"]).source
  section = {k: v for k, v in config["data"].items() if k != "name"}
  plugins.check(source, section, "config.data", ("split",))
  assert set(config["splits"]) >= {"train", "validation"}


def check_vqgan(config):
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  if config["stage"] == "likelihood":
    likelihood.check(config, tokenizer)
  else:
    vqgan.make_loss(**{**config["loss"], "lpips_weights": ""})
  check_source(config)
  assert config["tokenizer"]["image_size"] == config["data"]["size"]
  gan = _adversary.make_gan(config)
  assert (gan is None) == ("adversarial" not in config)


def check_prior(config):
  system = build_system(config)
  prior = pipeline.build_prior(config["prior"])
  assert system.net.vocab_size == prior.vocab_size
  prior_stage.check_order(system.net, prior)
  embeddings.check(system.net, prior)
  for what in ("sample", "trajectory"):
    pipeline.build_sampler(config["sampler"], prior, what)
  known = {"count", "batch", "seed", "captions", "split", "tile"}
  transforms = set(config["sample"]) - known
  assert transforms <= set(inspect.signature(pipeline.adapt).parameters)
  sampling.make_generator(config, system, prior)
  plugins.check(
    plugins.resolve("data", "tokens").source,
    {"path": config["data"]["path"]},
    "config.data",
    ("split",),
  )


def check_given(config):
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  check_source(config)
  assert tokenizer.given and tokenizer.length == config["data"]["length"]


def check_critic(config):
  judging.check_net(build_system(config).net)
  assert config["generator"] == "runs/emoji32/prior"
  prior = resolved("emoji32_absorbing")
  assert prior["data"] == config["data"]


CHECKS = {
  "given": check_given,
  "critic": check_critic,
  "vqgan": check_vqgan,
  "likelihood": check_vqgan,
  "prior": check_prior,
}


def check(config):
  """Every section against what it is passed to; the number of weights."""
  plugins.call(layout.make_mesh, config["mesh"], "config.mesh")
  CHECKS[config["stage"]](config)
  if config["stage"] != "given":
    check_training(config)
  init = actions.stage(config).initial(config)
  abstract = jax.eval_shape(init, jax.random.key(0))
  assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(abstract))
  return sum(leaf.size for leaf in jax.tree.leaves(abstract))


def check_training(config):
  """The sections of what is trained."""
  plugins.call(
    optimizer.make_optimizer,
    config["optimizer"],
    "config.optimizer",
    config["steps"],
  )
  given = ("ema", "params", "step")
  plugins.check(optimizer.average, config["ema"], "config.ema", given)
  plugins.call(loop.check_every, config["every"], "config.every")
  plugins.call(feed.Loader, config.get("loader", {}), "config.loader")
  given = ("self", "workdir", "config")
  plugins.check(checkpoint.Store.__init__, config["keep"], "config.keep", given)
  if config["evaluate"]["features"]:
    plugins.resolve("features", config["evaluate"]["features"])
  # What is evaluated is saved, or the best would be lost.
  assert config["every"]["evaluate"] % config["every"]["save"] == 0


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_a_config_builds(name, arg):
  config = resolved(name, arg)
  size = check(config)
  smoke = arg == "smoke"
  assert size < 100_000 or not smoke  # A smoke test is small.
  assert config.get("steps", 0) <= 20 or not smoke


NULL_TEXT = 77 * 512  # Of the learnt absence of a caption.
# Of 76,838,912 released numbers, 512 are a start token that the absorbing net
# does not read, or a mask that the autoregressive one does not know.
UNLEASHING = 76_838_912 - 512
MASK = 256  # The embedding of dropped tokens, which the paper does not count.
NO_CLASS = 24 * 768  # Of every layer.
UNREAD = 1001  # Biases of the logits of classes and the mask.


def on_ids(size, width):
  """A net of VQ-LCMD whose input is a table, not embeddings of 256 numbers."""
  return size + 1025 * width - 1025 * 256 - 257 * width


def bert(layers, width):
  """Without classes: 256 tokens of 1024 codes and a mask; MLP of ratio 4."""
  block = 12 * width**2 + 13 * width
  ends = (1025 + 256 + 2) * width  # Tables, and the norm of their sum.
  return layers * block + ends + width**2 + 3 * width + 1024


@pytest.mark.parametrize(
  ("name", "arg", "size"),
  [
    ("vq_diffusion", "coco", 388_780_871 + NULL_TEXT),
    ("vq_diffusion", "cub", 388_780_871 + NULL_TEXT),
    ("vq_diffusion", "ithq", 1_359_274_624 + NULL_TEXT),
    ("vq_diffusion", "imagenet", 518_037_966),
    ("vq_diffusion", "ffhq", 411_185_664),
    ("absorbing", "churches", UNLEASHING),
    ("autoregressive", "churches", UNLEASHING),
    ("lcmd", "ffhq", 56_070_144 + MASK),
    ("lcmd", "churches", 56_070_144 + MASK),
    ("lcmd", "bedroom", 56_070_144 + MASK),
    ("lcmd", "imagenet", 246_412_544 + MASK + NO_CLASS),
    ("d3pm", "ffhq", on_ids(56_070_144 + MASK, 512)),
    ("d3pm", "imagenet", on_ids(246_412_544 + MASK + NO_CLASS, 768)),
    ("maskgit", "ffhq", bert(15, 512)),
    ("maskgit", "imagenet", 172_457_193 - UNREAD),
    ("maskgit", "imagenet", bert(24, 768) + 1001 * 768),
  ],
)
def test_published_systems_have_their_published_sizes(name, arg, size):
  assert check(resolved(name, arg)) == size


UNUSED = 2_348_928 + 147_971  # 1x1 convolutions, and a head for likelihoods.


@pytest.mark.parametrize(
  ("arg", "size"),
  [
    ("ffhq", 65_779_974 - UNUSED),
    ("churches", 65_779_974 - UNUSED),
    ("bedroom", 65_779_974 - UNUSED),
    ("imagenet_f16_1024", 72_141_699),
    ("imagenet_f16_16384", 76_073_859),
    ("imagenet_maskgit", 54_515_587),
    ("openimages_f8", 68_995_971),
  ],
)
def test_published_tokenizers_have_their_published_sizes(arg, size):
  config = resolved("vqgan", arg)
  assert check(config) == size
  gan = _adversary.make_gan(config)
  rival = jax.eval_shape(
    lambda key: _adversary.init_discriminator(gan, (256, 256, 3), key),
    jax.random.key(0),
  )
  sizes = {3: 2_765_633, 2: 663_361}
  found = sum(leaf.size for leaf in jax.tree.leaves(rival.params))
  assert found == sizes[config["adversarial"]["layers"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_names_existing_keys_and_every_point_builds(name):
  for overrides, config in points(name):
    check(config)
    for key, value in overrides.items():
      node = config
      for part in key.split("."):
        node = node[part]
      assert node == json.loads(json.dumps(value))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_how_it_is_run(name):
  command = re.search(r"--config=(\S+)", module(name).__doc__)
  assert command[1].split(":")[0] == f"configs/{name}.py"


def pairs():
  """(prior, tokenizer) configs by the directory that the tokens lie in."""
  for name in NAMES:
    if resolved(name)["stage"] == "prior":
      run = pathlib.PurePath(resolved(name)["data"]["path"]).parts[-3]
      yield from ((name, t) for t in (run, f"{run}_vqgan") if t in NAMES)


@pytest.mark.parametrize("arg", ["", "smoke"])
@pytest.mark.parametrize(("prior", "tokenizer"), list(pairs()))
def test_a_prior_speaks_the_codes_of_its_tokenizer(prior, tokenizer, arg):
  net = build_system(resolved(prior, arg)).net
  codes = pipeline.build_tokenizer(resolved(tokenizer, arg)["tokenizer"])
  assert net.vocab_size == codes.prior_vocab_size
  assert tuple(net.grid) == tuple(codes.grid)
  section = resolved(prior, arg)["prior"]
  # The bound only if every count is met.
  if section["name"] == "absorbing" and section.get("masking") == "exact":
    assert section["time_steps"] == net.grid[0] * net.grid[1]


def test_the_smoke_tokenizer_makes_a_whole_task():
  task = vqgan.make_task(resolved("emoji32_vqgan", "smoke"))
  state = jax.eval_shape(task.init, jax.random.key(0))
  example = task.source[0]
  assert set(task.inputs) <= set(example)
  batch = {
    key: jax.ShapeDtypeStruct((8, *example[key].shape), example[key].dtype)
    for key in task.inputs
  }
  after, metrics = jax.eval_shape(task.update, state, batch, jax.random.key(0))
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert {"loss", "grad_norm"} <= set(metrics)


@pytest.mark.parametrize(
  "name", [name for name in NAMES if hasattr(module(name), "FIGURE")]
)
def test_a_figure_is_of_what_its_sweep_varies(name):
  figure = module(name).FIGURE
  varied = {key for overrides, _ in points(name) for key in overrides}
  assert {*figure["x"], figure.get("by", figure["x"][0])} <= varied
  [metrics] = protocols.of(resolved(name)).metrics.values()
  assert set(metrics) <= set(plugins.available("metrics"))
