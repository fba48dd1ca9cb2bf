"""The network: laws of its wiring."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vq_jax.nets import _block
from vq_jax.nets.transformer import Net
from vq_jax.types import Condition

VQD = dict(position="row_column", time="learnt", activation="sigmoid")
LCMD = dict(code_dim=4, position="sinusoidal", time="sinusoidal")
BERT = dict(post_norm=True, label_token=True, tied_head=True, activation="tanh")
# One small net per wiring: the laws below hold for each. b = n = 8 throughout,
# so that a net compiles once.
SMALL = dict(vocab_size=5, grid=(2, 4), layers=3, width=8, heads=2)
SMALL_VQD = dict(SMALL, **VQD, time_steps=4)
NETS = {
  "plain": SMALL,
  "causal": dict(SMALL, causal=True, head_bias=False),
  "text": dict(SMALL_VQD, text_dim=3),
  "pooled_text": dict(SMALL, text_dim=3, pooled_text=True),
  "class": dict(SMALL_VQD, labels=3, mlp="conv", null_label=True),
  "class_without_time": dict(SMALL, labels=3, activation="tanh"),
  "codes": dict(SMALL, **LCMD),
  "bert": dict(SMALL, **BERT, labels=3, norm_epsilon=1e-12),
}


def inputs(net):
  """z, t, cond that the net accepts."""
  rng = np.random.default_rng(7)
  b, n = 8, math.prod(net.grid)
  z = rng.integers(net.vocab_size, size=(b, n))
  if net.code_dim:
    z = rng.normal(size=(b, n, net.code_dim)).astype(np.float32)
  label = rng.integers(net.labels + 1, size=b)
  text = rng.normal(size=(b, 4, net.text_dim)).astype(np.float32)
  cond = Condition(
    label if net.labels else None, text if net.text_dim else None
  )
  return z, rng.uniform(size=b).astype(np.float32), cond


@functools.cache
def small(name):
  """A net and large random parameters: an input that is ignored shows."""
  net = Net(**NETS[name])
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs(net))

  def draw(leaf):
    return 0.5 * rng.normal(size=leaf.shape).astype(leaf.dtype)

  return net, jax.tree.map(draw, shapes)


@functools.cache
def runner(name):
  net, params = small(name)
  return jax.jit(lambda *args: net.apply(params, *args))


@pytest.mark.parametrize("name", NETS)
def test_who_sees_whom(name):
  """Logits at i move with token j: all pairs, or j < i in a causal net."""
  net, _ = small(name)
  base, *rest = jax.tree.map(lambda x: x[:1].repeat(8, axis=0), inputs(net))
  n = base.shape[1]
  other = (base + 1) % 5 if base.ndim == 2 else base + 1
  pick = np.eye(n, dtype=bool).reshape((n, n) + (1,) * (base.ndim - 2))
  run = runner(name)
  moved = run(np.where(pick, other, base), *rest) - run(base, *rest)
  moved = np.abs(moved).max(-1) > 1e-6  # [changed token, position]
  expected = np.triu(np.ones((n, n), bool), 1) if net.causal else True
  np.testing.assert_array_equal(moved, np.broadcast_to(expected, (n, n)))


@pytest.mark.parametrize("name", NETS)
def test_images_do_not_meet(name):
  """Permuting the batch permutes the logits."""
  args = inputs(small(name)[0])
  logits = np.asarray(runner(name)(*args))
  assert logits.dtype == np.float32 and logits.shape == (8, 8, 5)
  order = np.array([3, 1, 4, 7, 0, 5, 6, 2])
  permuted = runner(name)(*jax.tree.map(lambda x: x[order], args))
  np.testing.assert_allclose(permuted, logits[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["class", "codes"])
def test_vmap_over_single_images_is_the_batch(name):
  net, params = small(name)
  args = inputs(net)
  logits = runner(name)(*args)
  one = jax.vmap(lambda *args: net.apply(params, *args)[0])
  single = jax.jit(one)(*jax.tree.map(lambda x: x[:, None], args))
  np.testing.assert_allclose(single, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "name", ["text", "class", "class_without_time", "codes", "bert"]
)
def test_time_and_condition_are_heard(name):
  net, _ = small(name)
  z, t, cond = inputs(net)
  run = runner(name)
  base = run(z, t, cond)
  if net.time:
    moved = np.abs(run(z, (t + 0.5) % 1, cond) - base).max((1, 2))
    assert moved.min() > 1e-3
  for field, value in cond._asdict().items():
    if value is not None:
      new = (value + 1) % 4 if field == "label" else value + 1.0
      changed = run(z, t, cond._replace(**{field: new}))
      assert np.abs(changed - base).max((1, 2)).min() > 1e-4


def test_pooled_text_is_the_mean_through_the_norms_alone():
  """Without attention to it the order of the text is not heard, its mean is."""
  net, params = small("pooled_text")
  z, t, cond = inputs(net)
  cross = params["params"]["blocks"]["cross_attention"]["out"]
  silent = jax.tree.map(np.zeros_like, cross)
  blocks = {**params["params"]["blocks"]}
  blocks["cross_attention"] = {**blocks["cross_attention"], "out": silent}
  deaf = {"params": {**params["params"], "blocks": blocks}}
  run = jax.jit(net.apply)
  base = run(deaf, z, t, cond)
  turned = run(deaf, z, t, cond._replace(text=cond.text[:, ::-1]))
  np.testing.assert_allclose(turned, base, rtol=1e-4, atol=1e-4)
  other = run(deaf, z, t, cond._replace(text=cond.text + 1.0))
  assert np.abs(other - base).max((1, 2)).min() > 1e-3


def test_time_zero_shares_the_first_row():
  """Row round(t T) - 1 with T = 4: 0, 1/4 and 0.3 agree, 1/2 differs."""
  z, t, cond = jax.tree.map(
    lambda x: x[:1].repeat(8, axis=0), inputs(small("text")[0])
  )
  t[:4] = 0, 0.25, 0.3, 0.5
  logits = np.asarray(runner("text")(z, t, cond))
  np.testing.assert_allclose(logits[1:3], logits[:1].repeat(2, 0), atol=1e-6)
  assert np.abs(logits[3] - logits[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["class_without_time", "bert"])
def test_no_class_is_a_row_or_the_mean_of_the_rows(name):
  """A learnt row that equals the mean says what the mean says."""
  net, params = small(name)
  args = inputs(net)
  assert {0, 3} <= set(args[2].label)

  def widen(path, leaf):
    if path[-1].key == "labels":
      return np.concatenate([leaf, leaf.mean(0, keepdims=True)])
    if path[-1].key != "embedding" or path[-2].key == "tokens":
      return leaf
    return np.concatenate([leaf, leaf.mean(1, keepdims=True)], axis=1)

  wider = jax.tree_util.tree_map_with_path(widen, params)
  learnt = Net(**NETS[name], null_label=True)
  np.testing.assert_allclose(
    jax.jit(learnt.apply)(wider, *args),
    runner(name)(*args),
    rtol=1e-5,
    atol=1e-5,
  )


def test_scan_is_a_loop_over_blocks():
  net, params = small("plain")
  z, t, cond = inputs(net)
  p = params["params"]
  attention = functools.partial(_block.Attention, heads=2)
  mlp = functools.partial(
    _block.Mlp, layer="fc", activation="exact", grid=(2, 4)
  )
  norm = _block.AffineNorm
  block = jax.jit(_block.Block(norm, norm, attention, mlp).apply)
  x = p["tokens"]["embedding"][z] + p["positions"]
  for i in range(3):
    layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"])
    x, _ = block({"params": layer}, x, None, None, None, None)
  x = np.asarray(x, np.float64)
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1) + 1e-5)[..., None]
  x = x * p["norm"]["scale"] + p["norm"]["bias"]
  logits = x @ p["head"]["kernel"] + p["head"]["bias"]
  np.testing.assert_allclose(
    runner("plain")(z, t, cond), logits, rtol=1e-5, atol=1e-5
  )


def test_remat_changes_no_gradient():
  _, params = small("plain")

  def gradient(remat):
    net = Net(**SMALL, remat=remat)

    def loss(params):
      return net.apply(params, *inputs(net)).var()

    return jax.jit(jax.grad(loss))(params)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    gradient(True),
    gradient(False),
  )


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout"])
def test_dropout_is_for_training(rate):
  """Training: a key repeats itself, another key differs. Else: no effect."""
  _, params = small("plain")
  net = Net(**SMALL, **{rate: 0.5})
  args = inputs(net)

  @jax.jit
  def train(key):
    return net.apply(params, *args, train=True, rngs={"dropout": key})

  base = runner("plain")(*args)
  still = jax.jit(net.apply)(params, *args)
  np.testing.assert_allclose(still, base, rtol=1e-5, atol=1e-5)
  first, again, second = (train(jax.random.key(i)) for i in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - second).max() > 1e-2
  assert np.abs(first - base).max() > 1e-2


def test_eight_devices_say_what_one_says():
  net, params = small("class")
  args = inputs(net)
  one = runner("class")(*args)
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
  split = NamedSharding(mesh, P(("data", "fsdp")))
  with jax.set_mesh(mesh):
    eight = jax.jit(net.apply)(params, *jax.device_put(args, split))
  assert eight.sharding.is_equivalent_to(split, eight.ndim)
  np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wiring", [{}, dict(BERT, labels=3)])
def test_starts_nearly_uniform_in_either_compute_type(wiring):
  """bfloat16 is for matmuls: parameters and logits stay float32."""
  fields = dict(SMALL, **wiring, width=32, vocab_size=64)
  net, half = Net(**fields), Net(**fields, dtype="bfloat16")
  args = inputs(net)
  params = jax.jit(half.init)(jax.random.key(0), *args)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  logits = np.asarray(jax.jit(half.apply)(params, *args))
  assert logits.dtype == np.float32
  exact = jax.jit(net.apply)(params, *args)
  np.testing.assert_allclose(logits, exact, atol=0.02)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  entropy = -(p * np.log(p)).sum(-1)
  np.testing.assert_allclose(entropy, math.log(64), atol=0.05)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"mlp": "convolution"}, "no mlp 'convolution'.*conv, fc"),
    ({"activation": "relu"}, "exact, sigmoid, tanh"),
    ({"position": "learned"}, "mean 'learnt'"),
    ({"time": "learned"}, "no time 'learned'.*sinusoidal"),
    ({"pooled_text": True}, "pooled_text needs text_dim"),
    ({"pooled_text": True, "text_dim": 3, "labels": 2}, "labels = 0"),
    ({"heads": 3}, "3 heads do not divide width 8"),
    ({"causal": True, "mlp": "conv"}, "look ahead"),
    ({"causal": True, "time": "learnt"}, "has no time"),
    ({"causal": True, "code_dim": 4}, "reads ids"),
    ({"label_token": True}, "label_token needs labels"),
    ({"label_token": True, "labels": 2, "mlp": "conv"}, "nor of conv"),
    ({"tied_head": True, "code_dim": 4}, "needs ids"),
    ({"position_grid": (4, 4)}, "row_column"),
    ({"position": "row_column", "position_grid": (1, 3)}, "position_grid"),
  ],
)
def test_a_wrong_field_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Net(**{**SMALL, **fields})


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("plain", {"label": np.zeros(8, int)}, "takes no cond.label"),
    ("plain", {"z": np.zeros((8, 7), int)}, r"\[8, 7\].*\[b 8\]"),
    ("plain", {"z": np.zeros((8, 8))}, "integer"),
    ("codes", {"z": np.zeros((8, 8), int)}, r"floating \[b 8 4\]"),
    ("class", {"label": None}, "needs cond.label"),
    ("class", {"label": np.zeros(3, int)}, "cond.label"),
    ("class", {"t": None}, "needs t"),
    ("class", {"t": np.zeros(())}, "t is"),
    ("text", {"text": None}, "needs cond.text"),
    ("text", {"text": np.zeros((8, 4, 9))}, r"not \[8, None, 3\]"),
  ],
)
def test_a_wrong_input_is_refused(name, change, message):
  net, params = small(name)
  z, t, cond = inputs(net)
  args = {"z": z, "t": t, **cond._asdict(), **change}
  cond = Condition(args.pop("label"), args.pop("text"))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: net.apply(params, **args, cond=cond))


def test_flat_product_is_the_product(key):
  """Values and gradients of Dense's product against einsum."""
  x, w = jax.random.normal(key, (2, 3, 5)), jnp.arange(20.0).reshape(5, 4) / 9
  numbers = (((2,), (0,)), ((), ()))

  def flat(x, w):
    return jnp.sum(jnp.sin(_block.flat_dot(x, w, numbers)))

  def plain(x, w):
    return jnp.sum(jnp.sin(jnp.einsum("bnd,de->bne", x, w)))

  pairs = (jax.value_and_grad(f, (0, 1))(x, w) for f in (flat, plain))
  for a, b in zip(*map(jax.tree.leaves, pairs), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
