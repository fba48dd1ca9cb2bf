"""Nearest neighbours against a sort of all distances, and their picture."""

import numpy as np
import pytest
from PIL import Image

from vq_jax import pictures, plugins
from vq_jax.features import Features
from vq_jax.metrics import neighbours
from vq_jax.train import neighbours as lookup


def features(seed, count, d=3):
  """On a coarse lattice, so that many distances are equal."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 4, (count, d)).astype(np.float32)


def streamed(fake, real, k, sizes, **options):
  """Reals in batches of the given sizes; the last one is padded."""
  state = neighbours.init(k, **options)
  for part in np.array_split(fake, 2):
    state = neighbours.update(state, {"fake_features": part})
  for part in np.split(real, np.cumsum(sizes)):
    padded = np.concatenate([part, np.zeros_like(real[:2])])
    mask = np.arange(len(padded)) < len(part)
    batch = {"real_features": padded, "mask": mask}
    state = neighbours.update(state, batch)
  return state


@pytest.mark.parametrize("k", [1, 4, 40])
@pytest.mark.parametrize("sizes", [(), (1,) * 25, (7, 13), (39,)])
def test_the_nearest_are_the_first_of_a_stable_sort(k, sizes):
  """Of equals the first one, however the reals come; all, if k is more."""
  fake, real = features(0, 9), features(1, 40)
  square = np.square(fake[:, None] - real).sum(-1).astype(np.float64)
  order = square.argsort(1, kind="stable")[:, :k]
  state = streamed(fake, real, k, sizes)
  np.testing.assert_array_equal(state.index, order)
  nearest = np.sqrt(np.take_along_axis(square, order, 1))
  np.testing.assert_array_equal(neighbours.distances(state), nearest)
  median = np.median(nearest[:, 0])
  assert neighbours.compute(state) == {"nearest_distance": median}


def test_no_digit_depends_on_the_batches():
  rng = np.random.default_rng(2)
  fake, real = rng.normal(size=(5, 200)), rng.normal(size=(64, 200))
  states = [streamed(fake, real, 6, sizes) for sizes in ((), (1, 2, 30), (63,))]
  for state in states[1:]:
    np.testing.assert_array_equal(state.index, states[0].index)
    np.testing.assert_array_equal(state.square, states[0].square)


def test_a_real_is_its_own_neighbour_at_no_distance():
  """Far from the origin, where |x|^2 - 2 x y + |y|^2 would say otherwise."""
  real = 1e4 + np.random.default_rng(3).normal(size=(8, 5))
  state = streamed(real[[5, 2]], real, 1, (3,))
  np.testing.assert_array_equal(state.index[:, 0], [5, 2])
  assert neighbours.compute(state)["nearest_distance"] == 0.0


def test_squares_are_reported_where_they_are_the_distance():
  fake, real = features(4, 6), features(5, 10)
  roots, squares = (
    neighbours.distances(streamed(fake, real, 3, (4,), squared=squared))
    for squared in (False, True)
  )
  np.testing.assert_allclose(roots**2, squares)


def test_what_cannot_be_ranked_is_refused():
  with pytest.raises(ValueError, match="k must be 1 or more"):
    neighbours.init(0)
  state = streamed(features(0, 2), features(1, 3), 1, ())
  with pytest.raises(ValueError, match="before the first real"):
    neighbours.update(state, {"fake_features": features(0, 2)})
  with pytest.raises(ValueError, match="Fakes of 3 features, reals of 4"):
    neighbours.update(state, {"real_features": features(0, 2, d=4)})
  with pytest.raises(ValueError, match="a fake and a real"):
    neighbours.compute(neighbours.init())
  with pytest.raises(ValueError, match=r"evaluate\.neighbours has no key"):
    lookup.options({"neighbours": {"sample": 3}})


# Features without a network: the pixels.
PIXELS = Features(
  "pixels", "", {}, images=lambda x: {"pool": x.reshape(len(x), -1) / 255.0}
)
DATA = {"name": "synthetic", "size": 8, "count": 11}


def test_a_copied_training_image_is_found_and_shown(tmp_path):
  """Samples are training images 3 and 7: at no distance, unlike new ones."""
  train = plugins.build("data", "source", DATA, "it", "train")
  copies = [train[i]["image"] for i in (3, 7)]
  options = lookup.Options(samples=4, k=2)
  found = lookup.measure(options, copies, DATA, tmp_path, PIXELS, batch=4)
  assert found["pixels_nearest_distance"] == 0.0
  assert found["pixels_nearest_distance_of_validation"] > 0.1
  with Image.open(tmp_path / "neighbours.png") as picture:
    page = np.asarray(picture)
  rows = [page[2 + i * (80 + pictures.GAP) :][:64] for i in range(2)]
  for row, image in zip(rows, copies, strict=True):
    for column in range(2):  # The sample, and beside it what it is a copy of.
      cell = row[:, 2 + column * (64 + pictures.GAP) :][:, :64]
      np.testing.assert_array_equal(cell[::8, ::8], image)
  with Image.open(tmp_path / "measured.png") as picture:
    cells = np.asarray(picture)[2:18]
  for i, image in enumerate(copies):
    np.testing.assert_array_equal(cells[::2, 2 + 18 * i :][:, :16:2], image)


def test_the_first_samples_are_kept_as_they_pass():
  rng = np.random.default_rng(0)
  batches = [
    {"fake": rng.uniform(size=(3, 2, 2, 3)), "mask": np.arange(3) < count}
    for count in (3, 2)
  ]
  kept = []
  passed = list(lookup.keep(iter(batches), kept, 4))
  assert passed == batches
  whole = np.concatenate([batches[0]["fake"], batches[1]["fake"]])[:4]
  np.testing.assert_array_equal(kept, np.round(whole * 255).astype(np.uint8))
