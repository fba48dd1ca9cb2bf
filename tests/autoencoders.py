"""What tests of tokenizers against official numbers share.

golden/taming_*.npz and golden/ul_vqgan*.npz hold inputs, weights under the
official names, outputs and gradient norms of tiny models; layouts are NCHW and
OIHW.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from vq_jax.convert import _keys
from vq_jax.tokenizer import losses

GOLDEN = pathlib.Path(__file__).parent / "golden"
CLOSE = {"rtol": 2e-4, "atol": 2e-4}
# Options of the quantizer that the official losses have.
RELEASED = {"commitment": 1.0, "codebook_weight": 0.25}


def golden(case):
  """What was recorded, channels last, and the official weights."""
  data, state = {}, {}
  with np.load(GOLDEN / f"{case}.npz") as file:
    for name, value in file.items():
      last = value.ndim == 4 and value.shape[-1] != 3
      data[name] = np.moveaxis(value, 1, -1) if last else value
  for path in sorted(GOLDEN.glob(f"{case}.weights*npz")):
    with np.load(path) as file:
      state.update({k: v.astype(np.float32) for k, v in file.items()})
  return data, state


def paths(tree):
  """{path: leaf}."""
  leaves, _ = jax.tree.flatten_with_path(tree)
  string = jax.tree_util.keystr
  return {string(p, simple=True, separator="/"): x for p, x in leaves}


def shapes(module):
  """The parameters, not computed."""
  image = jnp.zeros((1, module.factor, module.factor, module.image_channels))
  return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


def check_norms(slopes, rules, state, keys, norms):
  """Gradient norms, tensor by tensor; zero or NaN where there is none."""
  ours = paths(slopes)
  for key, norm in zip(keys, norms, strict=True):
    place = _keys.locate(key, state[key], rules)
    if place is None or place[0] not in ours:
      assert not norm > 0.0, key
    else:
      found = np.linalg.norm(ours.pop(place[0]))
      np.testing.assert_allclose(found, norm, 2e-3, 1e-5, err_msg=key)
  assert not ours


def run(module, variables, images, options=None, **weights):
  """Loss with its parts, outputs, codes, and both gradients.

  options: of `module.apply`. A nearest-code quantizer has the released weights.
  """
  if module.quantizer == "nearest":
    module = module.clone(quantizer_options=RELEASED)

  def loss(variables, images):
    outputs, codes = module.apply(variables, images, **(options or {}))
    total, metrics = losses.stage_one(images, outputs, codes.loss, **weights)
    return total, (metrics, outputs, codes)

  grad = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, rest), (slopes, slope) = grad(variables, images)
  return *rest, slopes["params"], slope
