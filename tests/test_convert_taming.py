"""Released VQGAN tokenizers against the numbers of the official codecs."""

import pathlib

import jax
import numpy as np
import pytest

from vq_jax import plugins
from vq_jax.convert import _torch, taming
from vq_jax.tokenizer import quantize

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(case):
  """What was recorded, channels last, and the official weights."""
  with np.load(GOLDEN / f"{case}.npz") as file:
    data = {
      name: np.moveaxis(value, 1, -1) if value.ndim == 4 else value
      for name, value in file.items()
    }
  with np.load(GOLDEN / f"{case}.weights.npz") as file:
    return data, {k: v.astype(np.float32) for k, v in file.items()}


@pytest.fixture(scope="module")
def codec():
  return golden("vqd_codec")


def same(tree, other):
  return jax.tree.all(jax.tree.map(np.array_equal, tree, other))


def check_codec(data, section, params, **rngs):
  """Tokens exactly, and pictures, which are 0..255 there and [-1, 1] here."""
  module = plugins.build("tokenizer", "Tokenizer", section, "it")

  @jax.jit
  def both(images, ids):
    variables = {"params": params}
    return (
      module.apply(variables, images, method="encode", rngs=rngs),
      module.apply(variables, ids, method="decode"),
    )

  ids, images = both(data["image"] / 127.5 - 1.0, data["tokens"])
  np.testing.assert_array_equal(ids, data["tokens"])
  pictures = (np.clip(images, -1.0, 1.0) + 1.0) * 127.5
  np.testing.assert_allclose(pictures, data["decoded"], rtol=2e-4, atol=0.02)
  return module


def test_codec_with_a_reduced_vocabulary_is_the_official_one(codec):
  data, state = codec
  section, params = taming.tokenizer(state, 12, data["full_to_quantize"])
  remap = params["remap"]
  np.testing.assert_array_equal(remap["to_full"], data["quantize_to_full"])
  module = check_codec(data, section, params)
  assert (module.vocab_size, module.prior_vocab_size) == (40, 20)
  assert section == {
    "name": "vqgan",
    "image_size": 12,
    "image_channels": 3,
    "channels": 32,
    "multipliers": (1, 1),
    "blocks": 1,
    "decoder_extra": 1,
    "attention": (),
    "latent_dim": 8,
    "vocab_size": 40,
    "code_dim": 8,
    "quantizer": "nearest",
    "kept_codes": 20,
  }


def test_gumbel_codec_is_the_official_one(monkeypatch):
  """It draws codes whenever it encodes; the noise was recorded."""
  data, state = golden("vqd_codec_gumbel")
  section, params = taming.tokenizer(state, 8)
  assert section["quantizer"] == "gumbel"
  noise = -np.log(data["exp_noise"])
  monkeypatch.setattr(jax.random, "gumbel", lambda key, shape, dtype: noise)
  check_codec(data, section, params, gumbel=jax.random.key(0))


@pytest.mark.parametrize(
  ("files", "image_size", "fields"),
  [
    (
      ("taming_vqmodel.weights",),
      32,
      {"multipliers": (1, 2), "blocks": 1, "attention": (16,)},
    ),
    (
      ("taming_vqmodel_3lvl.weights.0", "taming_vqmodel_3lvl.weights.1"),
      16,
      {"multipliers": (1, 1, 2), "blocks": 2, "attention": (8,)},
    ),
  ],
)
def test_shapes_tell_the_levels(files, image_size, fields):
  state = {}
  for name in files:
    with np.load(GOLDEN / f"{name}.npz") as file:
      state.update(file)
  section, _ = taming.tokenizer(state, image_size)
  assert section == {**section, **fields, "decoder_extra": 1}


def systems(state):
  """The same weights under the names of the checkpoints they come in."""
  book = "quantize.embedding"
  halves = {
    f"{'dec' if key.startswith(('decoder', 'post')) else 'enc'}.{key}": value
    for key, value in state.items()
  }
  halves[f"dec.{book}.weight"] = 0 * state[f"{book}.weight"]
  own = {k: v for k, v in state.items() if k != f"{book}.weight"}
  own |= {
    book: state[f"{book}.weight"],
    "quantize.cluster_size": np.zeros(40),
    f"{book}_avg": np.zeros((40, 8)),
  }
  return {
    "training": {**state, "loss.logvar": np.zeros(()), "colorize": np.zeros(3)},
    "stage_two": {
      **{f"first_stage_model.{k}": v for k, v in state.items()},
      "transformer.head.weight": np.zeros((3, 3)),
    },
    "vq_diffusion": {
      **{f"content_codec.{k}": v for k, v in halves.items()},
      "transformer.log_at": np.zeros(100),
    },
    "moving_average": own,
  }


@pytest.mark.parametrize("name", systems({"quantize.embedding.weight": 0}))
def test_the_tokenizer_is_found_in_what_it_comes_in(codec, name):
  _, state = codec
  section, params = taming.tokenizer(systems(state)[name], 12)
  expected = taming.tokenizer(state, 12)
  assert section == expected[0]
  assert same(params, expected[1])


@pytest.mark.parametrize(
  ("key", "shape", "message"),
  [
    ("encoder.mid.gate.weight", (3,), r"'encoder\.mid\.gate\.weight'"),
    ("decoder.norm_out.bias", None, "lacks the tensor 'decoder/norm_out/bias'"),
    ("encoder.conv_in.weight", None, r"lacks the tensor 'encoder\.conv_in"),
    ("quantize.embedding.weight", None, r"lacks the tensor 'quantize\.embed"),
    ("quant_conv.bias", (9,), r"'quant_conv/bias' of shape \(9,\)"),
    (
      "decoder.up.0.block.1.conv2.weight",
      (32, 32, 1, 1),
      r"'decoder/up_0/block_1/conv2/kernel' of shape \(32, 32\)",
    ),
  ],
)
def test_one_wrong_tensor_is_named(codec, key, shape, message):
  state = dict(codec[1])
  state.pop(key, None)
  if shape is not None:
    state[key] = np.zeros(shape, np.float32)
  with pytest.raises(ValueError, match=message) as caught:
    taming.tokenizer(state, 12)
  assert "\n" not in str(caught.value)


def test_an_unknown_part_of_a_checkpoint_is_named(codec):
  state = systems(codec[1])["stage_two"] | {"sampler.weight": np.zeros(3)}
  with pytest.raises(
    ValueError, match=r"'sampler\.weight', which has no place"
  ):
    taming.tokenizer(state, 12)


def test_released_table_of_imagenet():
  """974 of 16384 codes: one to one, in order, but for the garbage id 0."""
  with np.load(GOLDEN / "vqd_remap_974.npz") as file:
    data = dict(file)
  to_small = np.zeros(16384, np.int64)
  to_small[data["quantize_to_full"][1:]] = np.arange(1, 974)
  assert to_small.sum() == data["sum_full_to_quantize"]
  small = to_small[data["probe_full"]]
  np.testing.assert_array_equal(small, data["probe_small"])
  tables = taming.kept_codes(to_small, 16384)
  np.testing.assert_array_equal(tables["to_full"], data["quantize_to_full"])
  np.testing.assert_array_equal(tables["to_small"], to_small)
  assert {table.dtype for table in tables.values()} == {np.dtype("int32")}


def test_tables_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r"shape \(3,\); the codebook has 4"):
    taming.kept_codes(np.array([0, 1, 0]), 4)
  for table in ([0, 2, 0], [-1, 0, 1]):
    with pytest.raises(ValueError, match=r"must use all of 0\.\."):
      taming.kept_codes(np.array(table), 3)


def test_load_reads_weights_and_table(codec, monkeypatch):
  data, state = codec
  files = {
    "it.ckpt": {"state_dict": state, "epoch": 3},
    "table.pt": data["full_to_quantize"],
  }
  monkeypatch.setattr(_torch, "read", files.get)
  config, params = taming.load("it.ckpt", 12, "table.pt")
  section, tree = taming.tokenizer(state, 12, data["full_to_quantize"])
  assert config == {"tokenizer": section}
  assert same(params, {"tokenizer": tree})
  with pytest.raises(ValueError, match=r"table\.pt holds no state dict"):
    taming.load("table.pt")


def test_a_fresh_reduced_vocabulary_keeps_the_first_codes():
  variables = quantize.Remap(5, 3).init(
    jax.random.key(0), np.arange(5), method="shrink"
  )
  expected = taming.kept_codes(np.array([0, 1, 2, 0, 0]), 5)
  assert same(dict(variables["params"]), expected)
