"""The network against released ones: their logits, gradients and sizes."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vq_jax import plugins
from vq_jax.convert import _keys, unleashing, vq_diffusion
from vq_jax.nets import _block
from vq_jax.nets.transformer import Net
from vq_jax.types import Condition

GOLDEN = pathlib.Path(__file__).parent / "golden"

VQD = dict(position="row_column", time="learnt", activation="sigmoid")
RELEASED = dict(VQD, position_grid=(32, 32), heads=16)
TEXT = dict(RELEASED, grid=(32, 32), text_dim=512)
FFHQ = dict(
  RELEASED, vocab_size=1024, grid=(16, 16), layers=20, width=512, mlp="conv"
)
IMAGENET = dict(FFHQ, vocab_size=974, layers=24, labels=1000)
LCMD = dict(code_dim=256, position="sinusoidal", time="sinusoidal")
CHURCHES = dict(
  LCMD, vocab_size=1024, grid=(16, 16), layers=15, width=512, heads=8
)
LCMD_IMAGENET = dict(CHURCHES, layers=24, width=768, heads=16, labels=1000)
UNLEASHING = dict(
  vocab_size=1024, grid=(16, 16), layers=24, width=512, heads=8, head_bias=False
)
BERT = dict(
  post_norm=True,
  label_token=True,
  tied_head=True,
  norm_epsilon=1e-12,
  activation="tanh",
)
MASKGIT = dict(
  BERT, vocab_size=1024, grid=(16, 16), layers=24, width=768, heads=16
)

# Published networks and their parameters. Unleashing Transformers is released
# as 76,838,912: its files carry the 512 numbers of a start token that only its
# autoregressive variant reads. VQ-Diffusion without its text encoder and the
# 77 x 512 numbers that stand for an empty caption: those belong to the text.
# VQ-LCMD as its paper may count it, and the embedding of MASK. MaskGIT without
# the output biases of what is never drawn, classes and MASK.
PRESETS = {
  "unleashing": (UNLEASHING, 76_838_912 - 512),
  "autoregressive": (dict(UNLEASHING, causal=True), 76_838_912 - 512),
  "vqd_text_b": (
    dict(TEXT, vocab_size=2887, layers=19, width=1024),
    388_780_871,
  ),
  "vqd_text_l": (
    dict(TEXT, vocab_size=4096, layers=36, width=1408),
    1_359_274_624,
  ),
  "vqd_imagenet": (IMAGENET, 518_025_678),
  "vqd_imagenet_null": (dict(IMAGENET, null_label=True), 518_037_966),
  "vqd_ffhq": (FFHQ, 411_185_664),
  "maskgit_imagenet": (
    dict(MASKGIT, labels=1000),
    172_457_193 - 1001,
  ),
  "lcmd": (CHURCHES, 56_070_144 + 256),
  "lcmd_imagenet": (LCMD_IMAGENET, 246_412_544 + 256),
  "lcmd_imagenet_null": (
    dict(LCMD_IMAGENET, null_label=True),
    246_430_976 + 256,
  ),
}


def load(case):
  """Arrays and the official weights."""
  data = dict(np.load(GOLDEN / f"{case}.npz"))
  with np.load(GOLDEN / f"{case}.weights.npz") as file:
    weights = {k: v.astype(np.float32) for k, v in file.items()}
  return data, weights


UT_GOLDEN = dict(grid=(4, 4), heads=4, layers=2, head_bias=False)
VQD_GOLDEN = dict(VQD, vocab_size=20, grid=(4, 4), heads=4, layers=2)
CLASS_GOLDEN = dict(
  VQD_GOLDEN, position_grid=(8, 8), mlp="conv", mlp_ratio=2, labels=10
)
CASES = {
  "ul_transformer": dict(UT_GOLDEN, vocab_size=32, width=64),
  "ul_transformer_ar": dict(UT_GOLDEN, vocab_size=24, width=48, causal=True),
  "vqd_net_text": dict(VQD_GOLDEN, width=64, text_dim=32),
  "vqd_net_class": dict(CLASS_GOLDEN, width=64),
  "vqd_net_class_null": dict(CLASS_GOLDEN, layers=1, width=32),
  "vqd_net_uncond": dict(
    VQD_GOLDEN, vocab_size=16, width=48, mlp="conv", mlp_ratio=2, time_steps=50
  ),
}


@pytest.mark.parametrize("case", CASES)
def test_official_logits_and_gradients(case):
  """Logits and the norm of every parameter's gradient, sum(logits * g)."""
  net = Net(**CASES[case], remat=False)
  data, weights = load(case)
  t = (data["t"] + 1) / net.time_steps if "t" in data else None
  cond = Condition(
    data["cond"] if net.labels else None,
    data["cond"] if net.text_dim else None,
  )
  args = (data["x"], t, cond)
  if case.startswith("ul"):
    rules = unleashing.CAUSAL_RULES
    section, params = unleashing.transformer(weights, heads=4)
  else:
    rules = vq_diffusion.RULES
    section, params = vq_diffusion.transformer(weights, grid=(4, 4), heads=4)
  assert plugins.build("nets", "Net", section, case) == net.clone(remat=True)
  # The official diffusion nets put the class in front of the position.
  order = (0, 1, 2) if case.startswith("ul") else (0, 2, 1)
  logits, cotangent = (
    data[k].transpose(order) for k in ("logits", "cotangent")
  )

  @jax.jit
  def run(params):
    ours, back = jax.vjp(lambda p: net.apply({"params": p}, *args), params)
    return ours, back(cotangent)[0]

  ours, grads = jax.device_get(run(params))
  np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-4)
  grads = traverse_util.flatten_dict(grads, sep="/")
  names = [k for k in weights if not k.endswith(".mask")]
  for key, norm in zip(names, data["grad_norms"], strict=True):
    path, layer, _ = _keys.locate(key, weights[key], rules)
    if path in grads:
      ours = grads[path] if layer is None else grads[path][layer]
      # A key bias shifts all scores of a query: its gradient is rounding.
      np.testing.assert_allclose(
        np.linalg.norm(ours), norm, rtol=1e-4, atol=1e-4, err_msg=key
      )


def bert_params(weights, layers, width):
  """The official MaskGIT tree as ours, every id a token and a class."""

  def layer(path):
    kinds = ("kernel", "bias", "scale")
    keys = {k: f"{path}/{k}" for k in kinds}
    return {k: weights[key] for k, key in keys.items() if key in weights}

  def heads(path):
    """[d a d/a] or [a d/a d] -> [d d], and [a d/a] -> [d]."""
    found = layer(path)
    return {
      "kernel": found["kernel"].reshape(width, width),
      "bias": found["bias"].reshape(width),
    }

  def block(i):
    attention, mlp = (
      f"TransformerLayer_{i}/{part}_0" for part in ("Attention", "Mlp")
    )
    names = ("query", "key", "value", "out")
    return {
      "attention": {
        name: heads(f"{attention}/self_attention/{name}") for name in names
      },
      "attention_norm": {"norm": layer(f"{attention}/attention_output_ln")},
      "mlp": {
        "up": layer(f"{mlp}/intermediate_output"),
        "down": layer(f"{mlp}/layer_output"),
      },
      "mlp_norm": {"norm": layer(f"{mlp}/layer_output_ln")},
    }

  words = weights["Embed_0/word_embeddings/embedding"]
  blocks = [block(i) for i in range(layers)]
  return {
    "tokens": {"embedding": words},
    "labels": words,
    "positions": weights["Embed_0/position_embeddings/embedding"],
    "embedding_norm": layer("Embed_0/embeddings_ln"),
    "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
    "head": {
      "dense": layer("MlmLayer_0/mlm_dense"),
      "norm": layer("MlmLayer_0/mlm_ln"),
      "bias": weights["MlmLayer_0/mlm_bias/bias"][:-1],
    },
  }


def test_official_maskgit_logits():
  """All 40 rows of its vocabulary serve as classes, the last one as MASK."""
  data, weights = load("maskgit_transformer")
  fields = dict(BERT, grid=(4, 4), layers=2, width=64, heads=4, mlp_ratio=2)
  net = Net(**fields, vocab_size=39, labels=40, remat=False)
  params = bert_params(weights, layers=2, width=64)
  ids = data["ids"]
  args = (ids[:, 1:], None, Condition(ids[:, 0], None))
  shapes = jax.eval_shape(net.init, jax.random.key(0), *args)["params"]
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
  logits = jax.jit(net.apply)({"params": params}, *args)
  expected = data["logits"][:, 1:, :39]
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_official_adaptive_norm_and_activation():
  data = np.load(GOLDEN / "vqd_adaln.npz")
  weights = np.load(GOLDEN / "vqd_adaln.weights.npz")
  signal = jax.jit(lambda t: _block.sinusoid(t, 16))(40.0 * data["t"])
  np.testing.assert_allclose(signal, data["sinusoid"], rtol=1e-4, atol=1e-4)
  kernel = weights["adaln.linear.weight"].astype(np.float32).T
  bias = weights["adaln.linear.bias"].astype(np.float32)
  params = {"modulation": {"kernel": kernel, "bias": bias}}
  norm = jax.jit(_block.AdaptiveNorm().apply)
  out = norm({"params": params}, data["x"], signal)
  np.testing.assert_allclose(out, data["adaln_out"], rtol=1e-4, atol=1e-4)
  gelu = _block.ACTIVATIONS["sigmoid"](data["x"])
  np.testing.assert_allclose(gelu, data["gelu2"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_published_parameter_counts(name):
  fields, count = PRESETS[name]
  net = Net(**fields)
  z = jnp.zeros((1, math.prod(net.grid)), int)
  z = jnp.zeros((*z.shape, net.code_dim)) if net.code_dim else z
  cond = Condition(
    jnp.zeros(1, int) if net.labels else None,
    jnp.zeros((1, 77, net.text_dim)) if net.text_dim else None,
  )
  shapes = jax.eval_shape(net.init, jax.random.key(0), z, jnp.zeros(1), cond)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
    jnp.dtype("float32")
  }
