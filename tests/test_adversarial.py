"""Discriminator, DiffAugment and the losses between the two networks.

golden/taming_disc*.npz, golden/ul_diffaug.npz and golden/ul_adaptive*.npz hold
what the official implementations compute; see test_tokenizer.py on layouts.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from test_tokenizer import CLOSE, count, golden

from vq_jax.convert import _keys
from vq_jax.tokenizer import adversarial, augment, discriminator

OPTIMIZED = {"xla_backend_optimization_level": 3}
GOLDEN = pathlib.Path(__file__).parent / "golden"


def abstract(net, side=32):
  """Variables, not computed."""
  images = jnp.zeros((1, side, side, 3))
  init = lambda key: net.init(key, images, train=True)  # noqa: E731
  return jax.eval_shape(init, jax.random.key(0))


def released(state, net, prefix=r"main\."):
  """The official weights of a discriminator: (params, running statistics)."""
  rules, end = [], r"\.(weight|bias)"
  for i, place in enumerate(["conv_0", *range(1, net.layers + 1), "conv_out"]):
    number = max(3 * i - 1, 0)
    name = place if i in (0, net.layers + 1) else f"conv_{i}"
    rules.append((rf"{prefix}{number}{end}", rf"{name}/\1"))
    rules.append((rf"{prefix}{3 * i}{end}", rf"norm_{i}/\1"))
  drops = {
    "another network": rf"(?!{prefix}).*",
    "statistics": r".*\.(running_\w+|num_\w+|loc|scale|initialized)",
  }
  wanted = abstract(net)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted)
  if net.norm == "actnorm":  # Set by the first batch, not by the file.
    fresh = {
      f"main.{3 * i}.{leaf}": np.full(net.channels * 2**i, float(value))
      for i in range(1, net.layers + 1)
      for leaf, value in (("weight", 1), ("bias", 0))
    }
    params = _keys.tree({**state, **fresh}, rules, drops, wanted["params"], "")
    return params, zeros["batch_stats"]
  params = _keys.tree(state, rules, drops, wanted["params"], "it")
  plain = prefix.replace("\\", "")
  statistics = {
    f"norm_{i}": {
      name: state[f"{plain}{3 * i}.running_{name}"] for name in ("mean", "var")
    }
    for i in range(1, net.layers + 1)
  }
  return params, statistics


@pytest.mark.parametrize(
  ("case", "layers", "norm"),
  [("taming_disc3", 3, "batch"), ("taming_disc2_actnorm", 2, "actnorm")],
)
def test_the_discriminator_is_the_official_one(case, layers, norm):
  data, state = golden(case)
  net = discriminator.Discriminator(layers, 16, norm)
  params, statistics = released(state, net)

  def verdict(x):
    variables = {"params": params, "batch_stats": statistics}
    logits, after = net.apply(variables, x, train=True, mutable=["batch_stats"])
    still = net.apply(variables, x, train=False)
    return jnp.mean(logits), (logits, after["batch_stats"], still)

  run = jax.jit(jax.grad(verdict, has_aux=True))
  slope, (logits, after, still) = run(data["x"])
  np.testing.assert_allclose(logits, data["train_logits"][..., 0], **CLOSE)
  np.testing.assert_allclose(slope, data["grad_x"], 2e-3, 2e-6)
  fake = logits[::-1] - 0.3
  hinge = adversarial.hinge(logits, fake)
  np.testing.assert_allclose(hinge, data["hinge"], 1e-4)
  vanilla = adversarial.cross_entropy(logits, fake)
  np.testing.assert_allclose(vanilla, data["vanilla"], 1e-4)
  if norm == "batch":
    np.testing.assert_allclose(still, data["eval_logits"][..., 0], **CLOSE)
  for i in range(1, layers + 1):
    ours, theirs = after[f"norm_{i}"], f"after.main.{3 * i}."
    if norm == "actnorm":
      ours = {
        "loc": -ours["mean"],
        "scale": 1.0 / (ours["deviation"] + 1e-6),
      }
    else:
      ours = {f"running_{name}": value for name, value in ours.items()}
    for name, value in ours.items():
      official = data[theirs + name].ravel()
      np.testing.assert_allclose(value, official, **CLOSE)


@pytest.mark.parametrize(("layers", "size"), [(3, 2_765_633), (2, 663_361)])
def test_public_discriminators_have_their_size(layers, size):
  net = discriminator.Discriminator(layers)
  assert count(abstract(net, 256)["params"]) == size
  logits = jax.eval_shape(
    lambda v, x: net.apply(v, x, train=False),
    abstract(net, 256),
    jnp.zeros((1, 256, 256, 3)),
  )
  assert logits.shape == {3: (1, 30, 30), 2: (1, 62, 62)}[layers]


def test_batch_statistics_are_of_all_devices():
  """One device or four: the same verdicts; statistics of a shard are others."""
  net, rng = discriminator.Discriminator(1, 2), np.random.default_rng(0)
  images = rng.normal(size=(8, 8, 8, 3)).astype(np.float32)
  images *= np.arange(1.0, 9.0, dtype=np.float32)[:, None, None, None]
  variables = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(x.dtype), abstract(net, 8)
  )

  # As a user's run is compiled: without optimization sums lose more digits.
  @functools.partial(jax.jit, compiler_options=OPTIMIZED)
  def run(x):
    return net.apply(variables, x, train=True, mutable=["batch_stats"])

  mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
  one = run(images)
  four = run(jax.device_put(images, NamedSharding(mesh, P("data"))))
  near = lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6)  # noqa: E731
  jax.tree.map(near, one, four)
  alone, _ = run(images[:2])
  assert np.abs(alone - one[0][:2]).max() > 1e-2


def test_actnorm_keeps_what_its_first_batch_says():
  norm, rng = discriminator.ActNorm(), np.random.default_rng(0)
  first, second = rng.normal(2.0, 5.0, (2, 4, 2, 2, 3)).astype(np.float32)

  @jax.jit
  def run(state, x):
    variables = {
      "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
      **state,
    }
    return norm.apply(variables, x, True, mutable=["batch_stats"])

  empty = dict(mean=np.zeros(3), deviation=np.ones(3), seen=np.bool_(False))
  y, state = run({"batch_stats": empty}, first)
  np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0.0, atol=1e-5)
  np.testing.assert_allclose(np.std(y, (0, 1, 2), ddof=1), 1.0, atol=1e-5)
  assert state["batch_stats"]["seen"]
  jax.tree.map(np.testing.assert_array_equal, run(state, second)[1], state)


def test_what_the_discriminator_cannot_do_is_refused():
  with pytest.raises(ValueError, match=r"no norm 'bach'.*'batch'"):
    abstract(discriminator.Discriminator(norm="bach"))
  with pytest.raises(ValueError, match="8 x 8 pixels are too small for 3"):
    abstract(discriminator.Discriminator(), 8)


def test_augmentations_are_the_official_ones():
  data, _ = golden("ul_diffaug")

  def draws(policy, first, last):
    names = [f"{policy}_draw{i}_" for i in range(first, last)]
    return [
      data[key].ravel() for n in names for key in data if key.startswith(n)
    ]

  x = data["x"]
  colour, translation, cutout = (
    jax.jit(change) for _, change in augment.AUGMENTATIONS.values()
  )
  both = colour(x, draws("color_translation", 0, 3))
  both = translation(both, draws("color_translation", 3, 5))
  for policy, y in {
    "color": colour(x, draws("color", 0, 3)),
    "translation": translation(x, draws("translation", 0, 2)),
    "cutout": cutout(x, draws("cutout", 0, 2)),
    "color_translation": both,
  }.items():
    np.testing.assert_allclose(y, data[f"{policy}_out"], 1e-5, 1e-5)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_augmentations_mean_the_same_in_our_range(name, key):
  """y in [-1, 1] is 2 x - 1: so is what becomes of it, with the same draws."""
  draw, change = augment.AUGMENTATIONS[name]
  x = np.random.default_rng(0).uniform(size=(3, 8, 8, 2)).astype(np.float32)
  ours = jax.jit(lambda x: augment.augment(key, x, (name,)))
  theirs = jax.jit(
    lambda x: change(x, draw(jax.random.fold_in(key, 0), x.shape))
  )
  y = ours(2.0 * x - 1.0)
  np.testing.assert_allclose(y, 2.0 * theirs(x) - 1.0, atol=1e-5)
  assert np.abs(y - (2.0 * x - 1.0)).max() > 0.1
  black = ours(np.full_like(x, -1.0))
  assert name == "colour" or (black == -1.0).all()
  assert augment.augment(key, x, ()) is x


def test_draws_cover_their_range_and_gradients_follow_the_pixels(key):
  shape = (4096, 16, 8, 3)
  draws = {
    name: np.asarray(draw(key, shape))
    for name, (draw, _) in augment.AUGMENTATIONS.items()
  }
  dh, dw = draws["translation"]
  assert (set(dh.tolist()), set(dw.tolist())) == (set(range(-2, 3)), {-1, 0, 1})
  rows, columns = draws["cutout"]
  assert (set(rows.tolist()), set(columns.tolist())) == (
    set(range(17)),
    set(range(9)),
  )
  assert draws["colour"].shape == (3, 4096)
  np.testing.assert_allclose(np.mean(draws["colour"], 1), 0.5, atol=0.03)
  np.testing.assert_allclose(np.var(draws["colour"], 1), 1 / 12, atol=0.01)
  assert abs(np.corrcoef(draws["colour"])[0, 1]) < 0.1
  # A pixel that stays visible has slope 1, one that left has none.
  shift = jnp.array([1]), jnp.array([0])
  total = lambda x: jnp.sum(augment.translation(x, shift))  # noqa: E731
  slope = jax.jit(jax.grad(total))(jnp.ones((1, 3, 2, 1)))[0, :, :, 0]
  np.testing.assert_array_equal(slope, [[0, 0], [1, 1], [1, 1]])


@pytest.mark.parametrize("case", ["ul_adaptive", "ul_adaptive_h"])
def test_the_adaptive_weight_is_the_official_one(case):
  with np.load(GOLDEN / f"{case}.npz") as file:
    data = dict(file)

  def conv(x, kernel, bias, stride, pad):
    y = jax.lax.conv(x, kernel, (stride, stride), pad)
    return y + bias[:, None, None]

  def outputs(kernel):
    return conv(data["features"], kernel, data["bias"], 1, "SAME")

  def nll(kernel):
    return jnp.mean(jnp.abs(outputs(kernel) - data["target"]))

  def fool(kernel):
    judged = data["disc_weight"], data["disc_bias"]
    return adversarial.linear(conv(outputs(kernel), *judged, 2, "VALID"))

  slopes = jax.jit(lambda w: (jax.grad(nll)(w), jax.grad(fool)(w)))(
    data["weight"]
  )
  for limit in (1, 10000):
    found = adversarial.adaptive_weight(*slopes, lambda_max=float(limit))
    np.testing.assert_allclose(found, data[f"lambda_max{limit}"], 1e-5, 1e-5)


def test_lambda_is_bounded_before_it_is_scaled():
  nll, fool = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 1e-2]])
  weigh = lambda **kw: adversarial.adaptive_weight(nll, fool, delta=0.0, **kw)  # noqa: E731
  assert weigh(lambda_max=1.0) == 1.0
  np.testing.assert_allclose(weigh(lambda_max=1e4, factor=0.8), 240.0, 1e-5)
  np.testing.assert_allclose(weigh(lambda_max=10.0, factor=0.8), 8.0, 1e-6)
  assert adversarial.adaptive_weight(nll, 0.0 * fool, lambda_max=2.0) == 2.0


def test_losses_by_hand():
  real, fake = jnp.array([2.0, 0.0]), jnp.array([-3.0, 1.0])
  assert adversarial.hinge(real, fake) == (0.5 + 1.0) / 2
  p, q = jax.nn.sigmoid(real), jax.nn.sigmoid(fake)
  bits = -(jnp.log(p).mean() + jnp.log(1.0 - q).mean()) / 2
  np.testing.assert_allclose(adversarial.cross_entropy(real, fake), bits, 1e-6)
  assert adversarial.linear(fake) == 1.0
  np.testing.assert_allclose(
    adversarial.non_saturating(fake), -jnp.log(q).mean(), 1e-6
  )


def test_r1_of_a_linear_judge_is_its_squared_length(key):
  """D is <w, x> on every one of four patches."""
  w = jax.random.normal(key, (5, 4, 3))

  def judge(x):
    verdict = jnp.einsum("bhwc,hwc->b", x, w)
    return jnp.broadcast_to(verdict[:, None, None], (len(x), 2, 2))

  found = jax.jit(lambda x: adversarial.r1_penalty(judge, x))(
    np.ones((3, 5, 4, 3), np.float32)
  )
  np.testing.assert_allclose(found, 0.5 * jnp.sum(w**2), 1e-5)
