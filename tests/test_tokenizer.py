"""The VQGAN tokenizer against the official implementations' numbers.

test_convert_unleashing.py has those of the other family.
"""

import itertools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoencoders import CLOSE, check_norms, golden, run, shapes

from vq_jax.convert import taming
from vq_jax.tokenizer import _autoencoder, losses, vqgan


def sizes(side, multipliers, blocks, attention, latent_dim, k, d, channels=32):
  return {
    "image_size": side,
    "channels": channels,
    "multipliers": multipliers,
    "blocks": blocks,
    "attention": attention,
    "latent_dim": latent_dim,
    "vocab_size": k,
    "code_dim": d,
  }


TWO_LEVELS = sizes(32, (1, 2), 1, (16,), 16, 64, 16)
THREE_LEVELS = sizes(16, (1, 1, 2), 2, (8,), 8, 48, 12)
NO_ATTENTION = sizes(16, (1, 1), 1, (), 8, 32, 8)
TINY = {**sizes(16, (1, 1), 1, (), 6, 10, 5, channels=4), "groups": 2}


@pytest.mark.parametrize(
  ("case", "fields"),
  [("taming_vqmodel", TWO_LEVELS), ("taming_vqmodel_3lvl", THREE_LEVELS)],
)
def test_outputs_and_gradients_are_the_official_ones(case, fields):
  data, state = golden(case)
  _, params = taming.tokenizer(state, fields["image_size"])
  module = vqgan.Tokenizer(**fields)
  metrics, outputs, codes, slopes, slope = run(
    module, {"params": params}, data["image"]
  )
  np.testing.assert_array_equal(codes.ids, data["indices"])
  np.testing.assert_allclose(codes.latents, data["latent"], **CLOSE)
  np.testing.assert_allclose(codes.quantized, data["quant"], **CLOSE)
  np.testing.assert_allclose(outputs, data["reconstruction"], **CLOSE)
  np.testing.assert_allclose(outputs, data["codebook_entry_dec"], **CLOSE)
  np.testing.assert_allclose(metrics["vq"], data["qloss"], rtol=2e-4)
  np.testing.assert_allclose(metrics["loss"], data["loss_l1_plus_q"], 2e-4)
  np.testing.assert_allclose(slope, data["grad_image"], 2e-3, 2e-6)
  check_norms(slopes, taming.RULES, state, state, data["grad_norms"])


def test_loss_with_a_perceptual_term_is_the_official_one():
  """Step 99 of a run whose discriminator starts to count at step 100."""
  data, state = golden("taming_gan")
  keys = [key for key in state if not re.search("running|tracked", key)]
  module = vqgan.Tokenizer(**NO_ATTENTION)
  _, params = taming.tokenizer(state, module.image_size)

  def stub(x, y):  # What stood in for LPIPS in that run.
    error = (x - y).reshape(-1, 8, 2, 8, 2, 3).mean((2, 4))
    return jnp.square(error).mean((1, 2, 3))

  metrics, _, _, slopes, _ = run(
    module, {"params": params}, data["image"], perceptual=stub
  )
  nll = metrics["reconstruction"] + metrics["perceptual"]
  official = {k[12:]: v for k, v in data.items() if k.startswith("step99_opt0")}
  np.testing.assert_allclose(metrics["loss"], official["total_loss"], 1e-4)
  np.testing.assert_allclose(metrics["vq"], official["quant_loss"], 1e-4)
  np.testing.assert_allclose(metrics["perceptual"], official["p_loss"], 1e-4)
  np.testing.assert_allclose(nll, official["nll_loss"], 1e-4)
  check_norms(slopes, taming.RULES, state, keys, official["grad_norms"])


def test_reconstruction_weights_both_errors():
  x, y = jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 3.0)
  assert losses.reconstruction(x, y) == 3.0
  assert losses.reconstruction(x, y, l1=0.0, l2=2.0) == 18.0
  assert losses.reconstruction(x, y, l1=2.0, l2=1.0) == 15.0


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def test_public_models_have_their_size():
  f16 = shapes(vqgan.Tokenizer())
  assert count(f16) == 72_141_699
  assert count(f16["encoder"]) == 29_298_176
  assert count(f16["decoder"]) == 42_449_795
  assert count(shapes(vqgan.Tokenizer(vocab_size=16_384))) == 76_073_859
  f8 = vqgan.Tokenizer(multipliers=(1, 1, 2, 4), attention=(32,))
  assert f8.factor == 8
  assert count(shapes(f8)["encoder"]) == 26_345_728
  assert count(shapes(f8)["decoder"]) == 38_316_163


MASKGIT = {
  "wiring": "maskgit",
  "attention": (),
  "projections": False,
  "decoder_extra": 0,
  "unit_range": True,
}


def test_the_maskgit_wiring_has_its_size():
  """Counted by hand: neither attention nor biases of blocks, means of 2x2."""

  def block(a, b):
    return 2 * (a + b) + 9 * b * (a + b) + (a != b) * b * b

  def chain(*widths):
    return sum(block(a, b) for a, b in itertools.pairwise(widths))

  blocks = chain(*[128] * 5, *[256] * 4, *[512] * 4)
  encoder = 27 * 128 + blocks + 2 * 512 + 512 * 256 + 256
  blocks = chain(*[512] * 5, *[256] * 4, *[128] * 4)
  ups = sum(9 * w * w + w for w in (512, 256, 256, 128))
  decoder = 9 * 256 * 512 + 512 + blocks + ups + 2 * 128 + 27 * 128 + 3
  found = shapes(vqgan.Tokenizer(**MASKGIT))
  assert count(found["encoder"]) == encoder
  assert count(found["decoder"]) == decoder
  assert count(found) == encoder + decoder + 1024 * 256


@pytest.mark.parametrize("wiring", _autoencoder.WIRINGS)
def test_a_block_is_its_formula(wiring, key):
  """The shortcut reads x, or in MaskGIT's what it is added to."""
  wiring = _autoencoder.WIRINGS[wiring]
  block = _autoencoder.ResnetBlock(6, 2, 0.0, jnp.float32, wiring)
  x = jax.random.normal(key, (1, 3, 3, 4))
  init = lambda key: block.init(key, x, False)  # noqa: E731
  shape = jax.eval_shape(init, key)["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda v: np.float32(rng.normal(size=v.shape)), shape)
  assert ("bias" in params["conv1"]) == wiring.bias

  def conv(layer, x):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = sum(
      x[:, i : i + 3, j : j + 3] @ params[layer]["kernel"][i, j]
      for i in range(3)
      for j in range(3)
    )
    return out + params[layer].get("bias", 0.0)

  def norm(layer, x):
    groups = x.reshape(1, 9, 2, -1)
    mean = groups.mean((1, 3), keepdims=True)
    spread = np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    x = ((groups - mean) / spread).reshape(x.shape)
    x = x * params[layer]["scale"] + params[layer]["bias"]
    return x / (1 + np.exp(-x))

  h = conv("conv1", norm("norm1", np.float64(x)))
  h = conv("conv2", norm("norm2", h))
  short = params["nin_shortcut"]
  read = h if wiring.late else np.float64(x)
  expected = h + read @ short["kernel"] + short.get("bias", 0.0)
  found = jax.jit(lambda p, x: block.apply({"params": p}, x, False))(params, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_maskgit_wiring_averages_pixels():
  x = np.arange(32.0).reshape(1, 4, 4, 2)
  pool = _autoencoder.Pool(jnp.float32)
  found = pool.apply({}, x)
  np.testing.assert_array_equal(found[0, 1, 0], x[0, 2:, :2].mean((0, 1)))
  paths = jax.tree_util.tree_leaves_with_path(
    shapes(vqgan.Tokenizer(**{**TINY, **MASKGIT, "latent_dim": 5}))
  )
  names = " ".join(jax.tree_util.keystr(path) for path, _ in paths)
  assert "attn" not in names and "downsample" not in names


@pytest.fixture(scope="module")
def tiny():
  """A model with random weights, images of 4 x 6 pixels, what it says."""
  module, rng = vqgan.Tokenizer(**TINY), np.random.default_rng(0)
  weights = jax.tree.map(
    lambda x: 0.3 * rng.normal(size=x.shape), shapes(module)
  )
  variables = {"params": jax.tree.map(np.float32, weights)}
  images = rng.uniform(-1.0, 1.0, (2, 4, 6, 3)).astype(np.float32)
  return module, variables, images, jax.jit(module.apply)(variables, images)


def test_images_of_any_size_become_grids_in_raster_order(tiny):
  module, variables, images, (outputs, codes) = tiny
  assert (module.factor, module.grid) == (2, (8, 8))
  assert outputs.shape == images.shape
  assert codes.latents.shape == codes.quantized.shape == (2, 2, 3, 5)
  codebook = variables["params"]["quantize"]["codebook"]
  rows = codebook[codes.ids].reshape(2, 2, 3, 5)
  np.testing.assert_array_equal(rows, codes.quantized)


def test_call_is_encode_then_decode(tiny):
  module, variables, images, (outputs, codes) = tiny
  bound = module.bind(variables)
  np.testing.assert_array_equal(jax.jit(bound.encode)(images), codes.ids)
  painted = jax.jit(lambda ids: bound.decode(ids, (2, 3)))(codes.ids)
  np.testing.assert_allclose(painted, outputs, rtol=1e-4, atol=1e-4)


def test_sizes_that_do_not_fit_are_refused(tiny):
  module, variables, *_ = tiny
  with pytest.raises(ValueError, match=r"4 x 5 .* multiples of 2"):
    module.apply(variables, jnp.zeros((1, 4, 5, 3)), method="encode")
  with pytest.raises(ValueError, match="6 ids do not fill a grid of 8 x 8"):
    module.apply(variables, jnp.zeros((1, 6), jnp.int32), method="decode")
  with pytest.raises(ValueError, match="4 channels, 3 groups"):
    shapes(module.clone(groups=3))
  with pytest.raises(
    ValueError, match="latent_dim = 6 must equal code_dim = 5"
  ):
    shapes(module.clone(projections=False))


def test_bfloat16_keeps_parameters_and_results_in_float32(tiny):
  module, variables, images, (_, exact) = tiny
  half = module.clone(dtype=jnp.bfloat16)
  assert {x.dtype for x in jax.tree.leaves(shapes(half))} == {jnp.dtype("f4")}
  outputs, codes = jax.jit(half.apply)(variables, images)
  assert outputs.dtype == codes.latents.dtype == jnp.float32
  error = jnp.abs(codes.latents - exact.latents).max()
  assert 0.0 < error < 0.05 * jnp.abs(exact.latents).max()


def test_dropout_acts_in_training_only(tiny):
  module, variables, images, (_, still) = tiny
  noisy = module.clone(dropout=0.5)
  program = [
    jax.make_jaxpr(m.apply)(variables, images) for m in (noisy, module)
  ]
  assert str(program[0]) == str(program[1])

  @jax.jit
  def train(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return noisy.apply(variables, images, train=True, rngs=rngs)[1].latents

  np.testing.assert_array_equal(train(2), train(2))
  assert jnp.abs(train(2) - still.latents).max() > 1e-3
  assert jnp.abs(train(2) - train(3)).max() > 1e-3


def test_a_reduced_vocabulary_is_the_full_one_behind_two_tables(tiny):
  """Codes 4 and 9 are kept as ids 1 and 2; all others count as code 0."""
  module, variables, images, (_, codes) = tiny
  small = module.clone(kept_codes=3)
  tables = {
    "to_small": np.zeros(10, np.int32),
    "to_full": np.array([0, 4, 9], np.int32),
  }
  tables["to_small"][[4, 9]] = 1, 2
  params = {**variables["params"], "remap": tables}
  assert shapes(small)["remap"].keys() == tables.keys()
  outputs, shown = jax.jit(small.apply)({"params": params}, images)
  kept = np.isin(codes.ids, [4, 9])
  full = np.where(kept, codes.ids, 0)
  np.testing.assert_array_equal(tables["to_full"][shown.ids], full)
  assert (small.vocab_size, small.prior_vocab_size) == (10, 3)
  assert (module.vocab_size, module.prior_vocab_size) == (10, 10)
  bound = small.bind({"params": params})
  np.testing.assert_array_equal(jax.jit(bound.encode)(images), shown.ids)
  painted, same = jax.jit(
    lambda ids, full: (
      bound.decode(ids, (2, 3)),
      module.apply(variables, full, (2, 3), method="decode"),
    )
  )(shown.ids, full)
  np.testing.assert_array_equal(painted, same)
  np.testing.assert_allclose(painted, outputs, rtol=1e-4, atol=1e-4)
  widened = small.apply(
    {"params": params}, jnp.array([3]), method=lambda m, x: m.remap.widen(x)
  )
  assert widened[0] == 10  # No code, which looks up as NaN.


def test_names_and_sizes_of_quantizers_are_checked():
  with pytest.raises(ValueError, match=r"no wiring 'maskgti'.*'maskgit'"):
    shapes(vqgan.Tokenizer(**TINY, wiring="maskgti"))
  with pytest.raises(ValueError, match=r"no quantizer 'gumble'.*'gumbel'"):
    shapes(vqgan.Tokenizer(**TINY, quantizer="gumble"))
  with pytest.raises(ValueError, match=r"kept_codes is not in 0\.\.10"):
    shapes(vqgan.Tokenizer(**TINY, kept_codes=11))


def test_a_gumbel_tokenizer_needs_noise_in_training_only():
  """Traced, not run: test_quantize.py has what the noise does."""
  module = vqgan.Tokenizer(**TINY, quantizer="gumbel")
  params, images = shapes(module), jnp.zeros((2, 4, 6, 3))

  def trace(**options):
    run = lambda p, x: module.apply({"params": p}, x, **options)  # noqa: E731
    return jax.eval_shape(run, params, images)

  key = {"gumbel": jax.random.key(0)}
  for options in ({}, {"rngs": key}, {"train": True, "rngs": key}):
    outputs, codes = trace(**options)
    assert outputs.shape == images.shape
    assert (codes.ids.shape, codes.loss.shape) == ((2, 6), ())
  with pytest.raises(flax.errors.InvalidRngError, match="gumbel"):
    trace(train=True)
