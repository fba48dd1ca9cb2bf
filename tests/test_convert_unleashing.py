"""Released tokenizers of Unleashing Transformers against official numbers."""

import math
import re

import jax
import numpy as np
import pytest
from autoencoders import CLOSE, GOLDEN, check_norms, golden, run

from vq_jax import plugins
from vq_jax.convert import _torch, unleashing_vqgan
from vq_jax.tokenizer import losses, quantize

# The modules of the 256x256 model in the order of their numbers: convolution,
# residual block, attention, half or double size, norm; with their widths.
ENCODER = (
  "c3-128 r128 r128 s128 r128 r128 s128 r128-256 r256 s256 r256 r256 s256"
  " r256-512 a512 r512 a512 r512 a512 r512 n512 c512-256"
)
GENERATOR = (
  "c256-512 r512 a512 r512 r512 a512 r512 a512 s512 r512-256 r256 s256 r256"
  " r256 s256 r256-128 r128 s128 r128 r128 n128 c128-3"
)


def layer(shape):
  """A weight and its bias, of no memory."""
  zeros = lambda s: np.broadcast_to(np.float32(0), s)  # noqa: E731
  return {"weight": zeros(shape), "bias": zeros(shape[:1])}


def module(kind, i, o):
  """{name: layer} of one numbered module of i and o channels."""
  norm, same = layer((i,)), layer((i, i, 1, 1))
  return {
    "c": {"": layer((o, i, 3, 3))},
    "n": {"": norm},
    "s": {"conv": layer((i, i, 3, 3))},
    "a": {"norm": norm, **dict.fromkeys(("q", "k", "v", "proj_out"), same)},
    "r": {
      "norm1": norm,
      "conv1": layer((o, i, 3, 3)),
      "norm2": layer((o,)),
      "conv2": layer((o, o, 3, 3)),
      "conv_out": layer((o, i, 1, 1)),  # Called where i != o.
    },
  }[kind]


def official(encoder, generator, k, d):
  """A state dict of a model, as its authors write it."""
  state = {"quantize.embedding.weight": layer((k, d))["weight"]}
  layers = {}
  for half, code in (("encoder", encoder), ("generator", generator)):
    for number, word in enumerate(code.split()):
      widths = [int(width) for width in word[1:].split("-")]
      for name, pair in module(word[0], widths[0], widths[-1]).items():
        layers[f"{half}.blocks.{number}.{name}".removesuffix(".")] = pair
  last = widths[0]
  layers["generator.logsigma.0"] = layer((last, last, 3, 3))
  layers["generator.logsigma.2"] = layer((widths[-1], last, 1, 1))
  for name, pair in layers.items():
    state |= {f"{name}.{leaf}": array for leaf, array in pair.items()}
  return state


def small():
  """The same family with one level, 32 channels and 8 codes."""
  middle = "r32 a32 r32"
  return official(
    f"c3-32 r32 {middle} n32 c32-6", f"c6-32 {middle} r32 n32 c32-3", 8, 6
  )


def built(case, image_size):
  data, state = golden(case)
  section, params = unleashing_vqgan.tokenizer(state, image_size)
  found = plugins.build("tokenizer", "Tokenizer", section, "it")
  return data, state, section, found, params


def without_head(module, params):
  """The head has no part in the loss that was recorded."""
  decoder = {k: v for k, v in params["decoder"].items() if k != "logsigma"}
  return module.clone(logsigma=False), {**params, "decoder": decoder}


def check_gradients(slopes, state, norms, blocks, attends):
  names = unleashing_vqgan.modules(blocks, attends)
  check_norms(slopes, unleashing_vqgan.rules(names), state, state, norms)


def test_the_tokenizer_is_the_official_one():
  data, state, section, module, params = built("ul_vqgan", 32)
  assert section["attention"] == (16,) and section["multipliers"] == (1, 2)
  bare, rest = without_head(module, params)
  metrics, outputs, codes, slopes, _ = run(
    bare,
    {"params": rest},
    2.0 * data["image"] - 1.0,  # Theirs are in [0, 1].
    l1=0.5,  # So our error is twice theirs.
  )
  np.testing.assert_array_equal(codes.ids, data["indices"])
  np.testing.assert_allclose(codes.latents, data["encoder_out"], **CLOSE)
  np.testing.assert_allclose((outputs + 1.0) / 2.0, data["recon"], **CLOSE)
  np.testing.assert_allclose(metrics["vq"], data["codebook_loss"], rtol=2e-4)
  counts = quantize.histogram(codes.ids, module.vocab_size)
  perplexity = quantize.perplexity(counts)
  np.testing.assert_allclose(perplexity, data["perplexity"], rtol=1e-5)
  check_gradients(slopes, state, data["grad_norms"], 1, (False, True))


def test_the_density_of_pixels_is_the_official_one():
  """Of 8-bit values, not of bins: what the released code evaluates."""
  data, _, _, module, params = built("ul_vqgan", 32)
  decode = jax.jit(lambda p, x: module.apply(p, x, method="gaussian"))
  mean, log_sigma = decode({"params": params}, data["indices"])
  np.testing.assert_allclose((mean + 1.0) / 2.0, data["mu"], **CLOSE)
  np.testing.assert_allclose(log_sigma, data["logsigma"], **CLOSE)
  images = 2.0 * data["image"] - 1.0
  nats = losses.pixel_nats(images, mean, log_sigma, dequantize=False)
  np.testing.assert_allclose(nats, data["nll_raw"], rtol=2e-4)
  bits = nats.mean() / (math.log(2.0) * images[0].size)
  np.testing.assert_allclose(bits, data["nll_bpd"], rtol=2e-4)


def test_the_gumbel_tokenizer_is_the_official_one(monkeypatch):
  """Soft codes in training, a drawn one otherwise; the noise was recorded."""
  data, state, section, module, params = built("ul_vqgan_gumbel", 16)
  assert section["quantizer"] == "gumbel_soft"
  module, params = without_head(module, params)
  images = 2.0 * data["image"] - 1.0
  noise = {}
  monkeypatch.setattr(
    jax.random, "gumbel", lambda key, shape, dtype: noise["now"]
  )
  rngs = {"gumbel": jax.random.key(0)}

  noise["now"] = -np.log(data["train_exp_noise"])
  metrics, outputs, _, slopes, _ = run(
    module,
    {"params": params},
    images,
    {"train": True, "rngs": rngs, "temperature": 0.6},
    l1=0.5,
  )
  np.testing.assert_allclose(
    (outputs + 1.0) / 2.0, data["train_recon"], **CLOSE
  )
  np.testing.assert_allclose(
    metrics["vq"], data["train_codebook_loss"], rtol=2e-4
  )
  check_gradients(slopes, state, data["train_grad_norms"], 1, (False, True))

  noise["now"] = -np.log(data["eval_exp_noise"])
  outputs, codes = jax.jit(lambda p, x: module.apply(p, x, rngs=rngs))(
    {"params": params}, images
  )
  np.testing.assert_array_equal(codes.ids, data["eval_indices"])
  np.testing.assert_allclose(codes.quantized, data["eval_quant"], **CLOSE)
  np.testing.assert_allclose((outputs + 1.0) / 2.0, data["eval_recon"], **CLOSE)


def test_the_published_model_has_its_size():
  """65,779,974 numbers with those nobody calls; no tensor is left over."""
  state = official(ENCODER, GENERATOR, 1024, 256)
  assert sum(array.size for array in state.values()) == 65_779_974
  section, params = unleashing_vqgan.tokenizer(state)
  assert section == {
    "name": "vqgan",
    "image_size": 256,
    "image_channels": 3,
    "channels": 128,
    "multipliers": (1, 1, 2, 2, 4),
    "blocks": 2,
    "attention": (16,),
    "latent_dim": 256,
    "vocab_size": 1024,
    "code_dim": 256,
    "quantizer": "nearest",
    "logsigma": True,
    "projections": False,
    "final_swish": False,
    "decoder_extra": 0,
    "unit_range": True,
  }
  unused = {512: 7, 256: 6, 128: 7}  # Blocks that keep their width, by width.
  idle = sum(n * width * (width + 1) for width, n in unused.items())
  ours = sum(array.size for array in jax.tree.leaves(params))
  assert ours + idle == 65_779_974


def test_the_names_of_a_file_are_the_recorded_ones():
  """`official` says what official files say: names and shapes."""
  with np.load(GOLDEN / "ul_vqgan.weights.npz") as file:
    shapes = {name: array.shape for name, array in file.items()}
  middle = "r64 a64 r64"
  state = official(
    f"c3-32 r32 s32 r32-64 a64 {middle} n64 c64-12",
    f"c12-64 {middle} r64 a64 s64 r64-32 n32 c32-3",
    48,
    12,
  )
  assert {name: array.shape for name, array in state.items()} == shapes


def test_a_training_state_holds_the_tokenizer_and_parts_that_are_dropped(
  monkeypatch,
):
  state = {f"ae.{key}": value for key, value in small().items()}
  state |= {
    "disc.main.0.weight": np.zeros((64, 3, 4, 4)),
    "perceptual.lin0.model.1.weight": np.zeros((1, 64, 1, 1)),
  }
  files = {"it.th": state, "array.th": np.zeros(3)}
  monkeypatch.setattr(_torch, "read", files.get)
  config, params = unleashing_vqgan.load("it.th", 16)
  section, tree = unleashing_vqgan.tokenizer(small(), 16)
  assert config == {"tokenizer": section}
  assert section["attention"] == () and section["multipliers"] == (1,)
  same = jax.tree.map(np.array_equal, params, {"tokenizer": tree})
  assert jax.tree.all(same)
  with pytest.raises(ValueError, match=r"array\.th holds no state dict"):
    unleashing_vqgan.load("array.th")
  files["it.th"] = state | {"sampler.head.weight": np.zeros(3)}
  with pytest.raises(ValueError, match=r"'sampler\.head\.weight', which has"):
    unleashing_vqgan.load("it.th")


def test_an_old_file_has_no_head():
  state = {k: v for k, v in small().items() if "logsigma" not in k}
  section, params = unleashing_vqgan.tokenizer(state, 16)
  assert not section["logsigma"] and "logsigma" not in params["decoder"]


@pytest.mark.parametrize(
  ("key", "shape", "message"),
  [
    (
      "encoder.blocks.1.gate.weight",
      (3,),
      "'encoder/down_0/block_0/gate/scale'",
    ),
    ("generator.blocks.7.weight", (3,), r"'generator\.blocks\.7\.weight'"),
    ("encoder.blocks.6.bias", None, "lacks the tensor 'encoder/conv_out/bias'"),
    ("generator.logsigma.2.bias", None, "'decoder/logsigma/out/bias'"),
    ("quantize.embedding.weight", None, r"lacks the tensor 'quantize\.embed"),
    ("generator.blocks.2.q.bias", (9,), r"'decoder/mid/attn_1/q/bias' of sh"),
  ],
)
def test_one_wrong_tensor_is_named(key, shape, message):
  state = small()
  state.pop(key, None)
  if shape is not None:
    state[key] = np.zeros(shape, np.float32)
  with pytest.raises(ValueError, match=message) as caught:
    unleashing_vqgan.tokenizer(state, 16)
  assert re.match(unleashing_vqgan.WHERE, str(caught.value))
