"""Every metric: the contract, and the laws that hold for all of them."""

import inspect
import itertools
import math

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vq_jax import plugins

NAMES = plugins.available("metrics")
K = 8
OPTIONS = {
  "codebook": {"vocab_size": K},
  "giqa_gmm": {"components": 2},
  "inception_score": {"splits": 3},
  "kid": {"subsets": 3, "subset_size": 8},
  "pixels": {"tokens": 5, "dims": 13 * 12 * 3},
  "unigram": {"vocab_size": K, "counts": np.arange(K)},
  "words": {
    "train": np.arange(40).reshape(8, 5) % K,
    "validation": np.arange(30).reshape(6, 5) % 3,
  },
}
# What padding may hold: whatever would be refused if it were read.
GARBAGE = {"ids": -1, "index": -1}


def examples(b=24):
  """One batch with every key that a metric may need."""
  rng = np.random.default_rng(0)
  return {
    "real": rng.uniform(size=(b, 13, 12, 3)).astype(np.float32),
    "fake": rng.uniform(size=(b, 13, 12, 3)).astype(np.float32),
    "ids": rng.integers(K, size=(b, 5)),
    "bits": rng.uniform(1, 9, size=b),
    "pixel_nats": rng.normal(size=b),
    "real_features": rng.normal(size=(b, 4)).astype(np.float32),
    "fake_features": rng.normal(size=(b, 4)).astype(np.float32) + 0.5,
    "fake_logits": rng.normal(size=(b, 7)).astype(np.float32),
    "real_embedding": rng.normal(size=(b, 6)).astype(np.float32),
    "fake_embedding": rng.normal(size=(b, 6)).astype(np.float32),
    "lpips": rng.uniform(size=b),
    "index": np.arange(b),
    "image_embedding": rng.normal(size=(b, 6)).astype(np.float32),
    "text_embedding": rng.normal(size=(b, 6)).astype(np.float32),
  }


def start(name):
  return plugins.resolve("metrics", name).init(**OPTIONS.get(name, {}))


def fold(name, batches):
  metric = plugins.resolve("metrics", name)
  state = start(name)
  for batch in in_order(name, batches):
    state = metric.update(state, batch)
  return metric.compute(state)


def in_order(name, batches):
  """The same rows; for `neighbours`, which keeps no reals, the fakes first."""
  if name != "neighbours":
    return batches
  fakes = [{k: b[k] for k in b if k != "real_features"} for b in batches]
  return fakes + [{k: b[k] for k in b if k != "fake_features"} for b in batches]


def cut(batch, edges):
  edges = [0, *edges, len(batch["bits"])]
  return [
    {k: v[i:j] for k, v in batch.items()} for i, j in itertools.pairwise(edges)
  ]


def assert_same(a, b, tolerance=1e-10):
  assert a.keys() == b.keys()
  for name in a:
    assert math.isclose(a[name], b[name], rel_tol=tolerance), name


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
  metric = plugins.resolve("metrics", name)
  assert isinstance(metric.NEEDS, tuple) and set(metric.NEEDS) <= set(
    examples()
  )
  assert list(inspect.signature(metric.update).parameters) == ["state", "batch"]
  result = fold(name, [examples()])
  assert result and all(type(value) is float for value in result.values())


@pytest.mark.parametrize("name", NAMES)
def test_reads_nothing_but_what_it_needs(name):
  """NEEDS is the truth: fewer keys are refused, more change nothing."""
  needs = plugins.resolve("metrics", name).NEEDS
  batch = examples()
  assert_same(fold(name, [{k: batch[k] for k in needs}]), fold(name, [batch]))
  with pytest.raises(ValueError, match=needs[0]):
    fold(name, [{k: v for k, v in batch.items() if k not in needs}])


@pytest.mark.parametrize("name", NAMES)
def test_any_split_gives_the_same_value(name):
  """Batches of 24; of 7, 1 and 16; of 5 and 19 in the other order."""
  whole, tolerance = fold(name, [examples()]), 1e-10
  if name == "ssim":
    tolerance = 1e-6  # Float32 on the device.
  assert_same(fold(name, cut(examples(), [7, 8])), whole, tolerance)
  assert_same(fold(name, cut(examples(), [5])[::-1]), whole, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_count(name):
  """Rows that are masked out may hold anything; a batch may be all padding."""
  batch = examples()
  mask = np.ones(24, bool)
  mask[[0, 11, 23]] = False
  spoilt = {k: v.copy() for k, v in batch.items()} | {"mask": mask}
  for key in batch:
    spoilt[key][~mask] = GARBAGE.get(key, np.nan)
  empty = {k: v[~mask] for k, v in spoilt.items()}
  kept = {k: v[mask] for k, v in batch.items()}
  assert_same(fold(name, [empty, spoilt, empty]), fold(name, [kept]))


@pytest.mark.parametrize("name", NAMES)
def test_update_leaves_the_state_alone(name):
  """A fold: an old state can be computed or continued again."""
  metric = plugins.resolve("metrics", name)
  first, second = cut(examples(), [12])
  if name == "neighbours":
    del second["fake_features"]
  state = metric.update(start(name), first)
  before = metric.compute(state)
  again = metric.compute(metric.update(state, second))
  assert_same(metric.compute(state), before)
  assert_same(metric.compute(metric.update(state, second)), again)


@pytest.mark.parametrize("name", NAMES)
def test_a_reused_buffer_is_safe(name):
  """The state holds no view of the batch."""
  metric = plugins.resolve("metrics", name)
  batch = examples()
  state = metric.update(start(name), batch)
  before = metric.compute(state)
  for array in batch.values():
    array[...] = 0
  assert_same(metric.compute(state), before)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_split_over_eight_devices_are_welcome(name):
  batch = {k: np.asarray(v, np.float32) for k, v in examples().items()}
  batch |= {k: examples()[k].astype(np.int32) for k in ("ids", "index")}
  mesh = Mesh(np.array(jax.devices()), "b")
  assert mesh.size == 8
  split = jax.device_put(batch, NamedSharding(mesh, P("b")))
  assert_same(fold(name, [split]), fold(name, [batch]))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_seen_is_an_error(name):
  with pytest.raises(ValueError):
    fold(name, [])


@pytest.mark.parametrize("name", NAMES)
def test_batch_sizes_must_agree(name):
  with pytest.raises(ValueError, match="disagree"):
    fold(name, [examples() | {"mask": np.ones(23, bool)}])


def test_options_are_checked():
  section = {"vocab": K}
  codebook = plugins.resolve("metrics", "codebook")
  with pytest.raises(ValueError, match="vocab_size"):
    plugins.call(codebook.init, section, "config.metrics.codebook")


PAIRED = ["frechet", "giqa_gmm", "giqa_knn", "kid", "prdc"]


@pytest.mark.parametrize("name", PAIRED)
def test_sets_may_come_apart_and_differ_in_size(name):
  """Reals first, fakes later, in batches of their own."""
  batch = examples()
  real = {"real_features": batch["real_features"][:17]}
  fake = {"fake_features": batch["fake_features"]}
  mask = np.arange(24) < 17
  parts = fold(name, [real, fake])
  assert_same(parts, fold(name, [fake, real]))
  padded = {"real_features": batch["real_features"], "mask": mask}
  assert_same(parts, fold(name, [padded, fake]))


@pytest.mark.parametrize("name", ["cmmd", "inception_score", *PAIRED[1:]])
def test_an_example_counts_once(name):
  """Two hosts that drew the same numbers, or a folder that was read twice."""
  with pytest.raises(ValueError, match="24 examples came twice"):
    fold(name, [examples(), examples()])


@pytest.mark.parametrize("name", ["inception_score", "kid", "giqa_gmm"])
def test_what_is_drawn_depends_on_numbers_and_not_on_order(name):
  """Without an index, another order is another draw."""
  pieces = [
    {k: v for k, v in p.items() if k != "index"} for p in cut(examples(), [5])
  ]
  one, two = fold(name, pieces), fold(name, pieces[::-1])
  assert any(one[k] != two[k] for k in one)
