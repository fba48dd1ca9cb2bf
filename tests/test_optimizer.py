"""Optimizer and moving average against their closed forms, and placement."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vq_jax import plugins
from vq_jax.train import layout, optimizer

GOLDEN = pathlib.Path(__file__).parent / "golden"
LEARNING_RATES = {
  "vqd_lr": dict(
    start_lr=3e-6,
    lr=4.5e-4,
    warmup_steps=10,
    patience=5,
    factor=0.5,
    min_lr=1e-6,
    threshold=0.1,
  ),
  "vqd_lr_h": dict(
    start_lr=1e-6,
    lr=1e-4,
    warmup_steps=20,
    patience=3,
    factor=0.3,
    min_lr=2e-6,
    threshold=0.05,
  ),
}


def transform(steps=10, **options):
  return optimizer.make_optimizer(steps, **{"lr": 0.1, **options})


def walk(transform, grads, params):
  """The weights after each of several updates."""
  state = transform.init(params)
  for g in grads:
    updates, state = transform.update(g, state, params, value=0.0)
    params = jax.tree.map(jnp.add, params, updates)
    yield params


def test_average_is_the_weighted_sum_of_all_weights():
  """e_n = d^n e_0 + (1 - d) sum_k d^(n-k) p_k."""
  d, n = 0.8, 7
  weights = np.random.default_rng(0).normal(size=(n + 1, 3))
  ema = jnp.asarray(weights[0])
  for k in range(1, n + 1):
    ema = optimizer.average(
      ema, jnp.asarray(weights[k]), k, decay=d, warmup=False
    )
  powers = d ** np.arange(n - 1, -1, -1)
  expected = d**n * weights[0] + (1 - d) * powers @ weights[1:]
  np.testing.assert_allclose(ema, expected, rtol=1e-5)


def test_average_warms_up_as_far_as_its_decay():
  """Decay min(0.5, (1 + k) / (10 + k)): 2/11 first, 0.5 from k = 8."""
  ema = lambda k: float(optimizer.average(1.0, 0.0, k, decay=0.5))  # noqa: E731
  for k in (1, 2, 7):
    assert ema(k) == pytest.approx((1 + k) / (10 + k))
  assert ema(8) == ema(100) == 0.5


def test_average_moves_only_at_multiples():
  ema = [
    float(optimizer.average(1.0, 0.0, k, decay=0.9, every=5, warmup=False))
    for k in range(1, 11)
  ]
  np.testing.assert_allclose(ema, [1, 1, 1, 1, 0.9] * 2, rtol=1e-6)
  late = optimizer.average(1.0, 0.0, 10, decay=0.9, every=5)
  assert float(late) == pytest.approx(3 / 12)  # The second average: k = 2.


def test_learning_rate_ramps_then_falls_as_a_cosine():
  rate = optimizer.learning_rate(2.0, 4, 12, "cosine")
  np.testing.assert_allclose(
    [rate(step) for step in (0, 1, 2, 4)], [0, 0.5, 1, 2], rtol=1e-6
  )
  for step in (4, 6, 8, 11):
    cosine = 1 + np.cos(np.pi * (step - 4) / 8)
    assert float(rate(step)) == pytest.approx(cosine, rel=1e-5)
  assert float(rate(12)) == pytest.approx(0, abs=1e-6)
  constant = optimizer.learning_rate(2.0, 4, 12, "constant")
  assert float(constant(4)) == float(constant(1000)) == 2.0
  assert float(optimizer.learning_rate(2.0, 0, 12, "cosine")(0)) == 2.0
  with pytest.raises(ValueError, match=r"'linear'.*constant, cosine"):
    optimizer.learning_rate(2.0, 0, 12, "linear")


def test_the_first_step_of_adam_is_the_learning_rate():
  grads = {"w": jnp.array([[3.0, -0.01]])}
  (params,) = walk(transform(), [grads], {"w": jnp.zeros((1, 2))})
  np.testing.assert_allclose(params["w"], [[-0.1, 0.1]], rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
  """A huge gradient counts like one of norm 1 in both of Adam's moments."""
  params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
  small = {"a": jnp.array([0.6, 0.0]), "b": jnp.array(0.8)}
  tiny = jax.tree.map(lambda g: 0.01 * g, small)
  huge = jax.tree.map(lambda g: 1e3 * g, small)
  clip = transform(clip_norm=1.0)
  one = list(walk(clip, [huge, tiny], params))[-1]
  two = list(walk(clip, [small, tiny], params))[-1]
  three = list(walk(transform(), [huge, tiny], params))[-1]
  for key in params:
    np.testing.assert_allclose(one[key], two[key], rtol=1e-5)
    assert (np.abs(one[key] - three[key]) > 1e-4).any()


@pytest.mark.parametrize("vectors", [False, True])
def test_weight_decay_is_of_matrices_alone_unless_asked(vectors):
  """Without gradient a weight shrinks by the factor 1 - lr * decay."""
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  still = jax.tree.map(jnp.zeros_like, params)
  decayed = transform(weight_decay=0.5, decay_vectors=vectors)
  (after,) = walk(decayed, [still], params)
  np.testing.assert_allclose(after["kernel"], 0.95, rtol=1e-6)
  np.testing.assert_allclose(after["bias"], 0.95 if vectors else 1.0, rtol=1e-6)


def test_no_option_changes_the_shape_of_the_state():
  """So that a checkpoint resumes whatever config.optimizer becomes."""
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}

  def leaves(**options):
    state = transform(**options).init(params)
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    return [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in flat]

  plain = leaves()
  for options in (
    dict(clip_norm=1.0),
    dict(warmup_steps=3, decay="cosine"),
    dict(weight_decay=0.1),
    dict(weight_decay=0.1, decay_vectors=True),
    dict(decay="plateau", patience=3),
    dict(only="kernel"),
  ):
    assert leaves(**options) == plain


@pytest.mark.parametrize("case", ["vqd_lr", "vqd_lr_h"])
def test_learning_rate_of_the_released_vq_diffusion(case):
  """Ramp, then halved on plateaus of the loss: one update earlier than there.

  Their scheduler looks at a loss after the update that it came with.
  """
  g = np.load(GOLDEN / f"{case}.npz")
  options = LEARNING_RATES[case]
  chain = transform(decay="plateau", b1=0.0, b2=0.0, **options)
  params = {"w": jnp.zeros(())}
  state = chain.init(params)
  found = []
  for loss in g["loss"]:
    updates, state = chain.update(
      {"w": jnp.ones(())}, state, params, value=loss
    )
    found.append(-float(updates["w"]))  # Adam without memory: sign times rate.
  ramp = options["warmup_steps"]
  np.testing.assert_allclose(found[:ramp], g["lr"][:ramp], rtol=1e-4)
  np.testing.assert_allclose(found[ramp:-1], g["lr"][ramp + 1 :], rtol=1e-4)


def test_only_the_weights_that_are_named_move():
  params = {"net": {"kernel": jnp.ones((2, 2))}, "null": jnp.ones((2, 2))}
  grads = jax.tree.map(lambda p: 3.0 * p, params)
  some = transform(only="null", weight_decay=0.5, clip_norm=1.0)
  (after,) = walk(some, [grads], params)
  np.testing.assert_array_equal(after["net"]["kernel"], 1.0)
  # The frozen gradients do not count for clipping either.
  (alone,) = walk(
    transform(weight_decay=0.5, clip_norm=1.0),
    [{"null": grads["null"]}],
    {"null": params["null"]},
  )
  np.testing.assert_allclose(after["null"], alone["null"], rtol=1e-6)


def test_a_misspelt_option_is_told():
  with pytest.raises(ValueError, match=r"'warmup'.*'warmup_steps'"):
    plugins.call(
      optimizer.make_optimizer, {"lr": 1, "warmup": 1}, "config.optimizer", 10
    )


# --- Placement ---


def test_the_mesh_is_what_there_is():
  assert dict(layout.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
  mesh = layout.make_mesh(2, -1, 2)
  assert tuple(mesh.shape.values()) == (2, 2, 2)
  for sizes in ((3, 1, 1), (-1, 3, 1), (0, -1, 1), (-1, -1, 1), (16, 1, 1)):
    with pytest.raises(ValueError, match=r"config\.mesh .* 8 devices"):
      layout.make_mesh(*sizes)


@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((256, 512), P("tensor", "fsdp")),
    ((512, 256), P("fsdp", "tensor")),
    ((2, 255, 257), P("fsdp", None, None)),  # Nothing else divides.
    ((512, 129), P("fsdp", None)),
    ((255, 513), P(None, None)),
    ((128, 128), P()),  # Too small to be worth it.
    ((), P()),
  ],
)
def test_large_weights_are_split_where_they_divide(shape, spec):
  assert layout.split(shape, layout.make_mesh(2, 2, 2)) == spec


def test_moments_and_average_lie_with_their_weights():
  mesh = layout.make_mesh(1, 8, 1)
  shape = jax.ShapeDtypeStruct((512, 512), jnp.float32)
  params = {"up": {"kernel": shape}, "embedding": shape}
  moments = jax.eval_shape(transform().init, params)
  where = layout.layout({"params": params, "optimizer": moments}, mesh)
  split = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, place in jax.tree_util.tree_flatten_with_path(where)[0]
    if place.spec == P("fsdp", None)
  ]
  assert len(split) == 3
  assert all(name.endswith("up/kernel") for name in split)


def test_a_batch_is_placed_row_by_row():
  mesh = layout.make_mesh(2, 2, 2)
  rows = {"x": np.arange(12).reshape(4, 3), "word": np.arange(4)}
  placed = layout.place_batch(rows, mesh)
  np.testing.assert_array_equal(placed["x"], rows["x"])
  assert {s.data.shape for s in placed["x"].addressable_shards} == {(1, 3)}
  assert {s.data.shape for s in placed["word"].addressable_shards} == {(1,)}
  layout.check_batch(4, mesh, "it")
  with pytest.raises(ValueError, match=r"it is 6.* 4 devices.*multiple of 4"):
    layout.check_batch(6, mesh, "it")
