"""Codebooks that follow, start on, or restart from the latents."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vq_jax import pictures
from vq_jax.tokenizer import _ema, _kmeans, quantize, vqgan

K, D = 6, 3


def smoothed(size, epsilon=1e-5):
  return (size + epsilon) / (size.sum() + len(size) * epsilon) * size.sum()


def test_codes_and_counts_are_the_three_official_buffers():
  """embedding = embedding_avg / smoothed cluster_size, before and after.

  The official state is (cluster_size, embedding_avg, embedding); ours lacks
  the second, which must not show over steps. Code 5 is never chosen.
  """
  rng = np.random.default_rng(0)
  size, total = rng.uniform(0.5, 9.0, K), rng.normal(size=(K, D))
  codebook = jnp.float32(total / smoothed(size)[:, None])
  counts = jnp.float32(size)
  update = jax.jit(_ema.update, static_argnames="decay")
  for _ in range(4):
    latents, ids = rng.normal(size=(2, 4, D)), rng.integers(0, K - 1, (2, 4))
    one_hot = np.eye(K)[ids.ravel()]
    size = 0.9 * size + 0.1 * one_hot.sum(0)
    total = 0.9 * total + 0.1 * one_hot.T @ latents.reshape(-1, D)
    codebook, counts = update(
      codebook, counts, jnp.float32(latents), ids, decay=0.9
    )
    np.testing.assert_allclose(counts, size, rtol=1e-5)
    expected = total / smoothed(size)[:, None]
    np.testing.assert_allclose(codebook, expected, rtol=1e-4, atol=1e-6)


def test_a_code_that_counts_once_is_forgotten_at_the_rate_of_the_decay():
  """e_t = (g^t e_0 + (1 - g^t) sum z) / (g^t + (1 - g^t) n), g the decay.

  So a start with counts of one, and what `revive` moves, is a code that has
  been seen once; a code that nothing chooses stays where it is.
  """
  codebook = jnp.array([[8.0, 0.0], [1.0, 2.0]])
  module = _ema.Ema(2, 2, decay=0.8)
  counts, latents = jnp.ones(2), jnp.array([[1.0, 1.0], [2.0, 0.0], [3.0, 5.0]])
  for _ in range(5):
    ids = jnp.zeros(3, jnp.int32)
    codebook, counts = module.follow(codebook, counts, latents, ids)
  g = 0.8**5
  first = (g * np.array([8.0, 0.0]) + (1 - g) * np.array([6.0, 6.0])) / (
    g + (1 - g) * 3
  )
  np.testing.assert_allclose(codebook, [first, [1.0, 2.0]], rtol=1e-4)
  np.testing.assert_allclose(counts, [g + 3 * (1 - g), g], rtol=1e-5)


def test_devices_add_up_before_the_decay(key):
  """A batch over four devices and over one: the same codebook, bit by bit.

  Whole numbers have exact sums, in any order.
  """
  codebook = jnp.round(8.0 * jax.random.normal(key, (K, D)))
  latents = jnp.round(9.0 * jax.random.normal(key, (8, 5, D)))
  results = []
  for devices in (1, 4):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def step(codebook, counts, latents):
      ids = quantize.nearest(latents, codebook)
      return _ema.update(codebook, counts, latents, ids)

    step = jax.jit(step, out_shardings=whole)
    inputs = (
      jax.device_put(codebook, whole),
      jax.device_put(jnp.ones(K), whole),
      jax.device_put(latents, split),
    )
    program = step.lower(*inputs).compile()
    assert ("all-reduce" in program.as_text()) == (devices > 1)
    results.append(program(*inputs))
  for one, four in zip(*results, strict=True):
    np.testing.assert_array_equal(one, four)
  assert np.abs(results[0][0] - codebook).max() > 1e-3


def test_the_codebook_has_no_gradient_and_the_encoder_commits(key):
  latents = jax.random.normal(key, (5, D))
  module = vqgan.make_quantizer("ema", K, D, {"commitment": 0.7})
  book = jax.random.normal(jax.random.fold_in(key, 1), (K, D))

  def loss(book, latents):
    found = module.apply({"params": {"codebook": book}}, latents)
    return found.loss, found

  grad = jax.grad(loss, (0, 1), has_aux=True)
  (to_codes, to_latents), found = grad(book, latents)
  np.testing.assert_array_equal(to_codes, np.zeros((K, D)))
  np.testing.assert_array_equal(found.ids, quantize.nearest(latents, book))
  pull = 2.0 * 0.7 * (latents - book[found.ids]) / latents.size
  np.testing.assert_allclose(to_latents, pull, rtol=1e-5)
  error = np.square(latents - book[found.ids])
  np.testing.assert_allclose(found.loss, 0.7 * error.mean(), rtol=1e-5)


def test_codes_that_died_come_back_and_follow(key):
  """All latents are far from all codes but one; in the end all are in use."""
  latents = 10.0 + jax.random.normal(key, (4, K, D))
  codebook = jnp.zeros((K, D)).at[0].set(9.0)
  counts, idle = jnp.ones(K), jnp.zeros(K, jnp.int32)

  @jax.jit
  def step(codebook, counts, idle):
    ids = quantize.nearest(latents, codebook)
    codebook, counts = _ema.update(codebook, counts, latents, ids)
    codebook, idle, revived = quantize.revive(
      key, codebook, idle, latents, ids, patience=3
    )
    return codebook, jnp.where(revived, 1.0, counts), idle, revived

  for i in range(3):
    codebook, counts, idle, revived = step(codebook, counts, idle)
    assert int(revived.sum()) == (K - 1) * (i == 2)
  for _ in range(60):
    codebook, counts, idle, revived = step(codebook, counts, idle)
    assert not revived.any()
  ids = quantize.nearest(latents, codebook).reshape(-1)
  pool = np.asarray(latents).reshape(-1, D)
  assert quantize.usage(quantize.histogram(ids, K)) == 1.0
  near = [np.abs(pool[ids == k].mean(0) - codebook[k]).max() for k in range(K)]
  assert max(near) < 1.0


kmeans = jax.jit(_kmeans.kmeans, static_argnums=(2, 3))


def distortion(points, codebook):
  points, codebook = np.float64(points), np.float64(codebook)
  return np.square(points[:, None] - codebook).sum(-1).min(-1).mean()


def test_kmeans_recovers_the_means_of_separated_clusters(key):
  rng = np.random.default_rng(1)
  centres = 100.0 * np.array([[0, 0], [1, 0], [0, 1], [1, 1], [3, 2]])
  points = (centres[:, None] + rng.normal(size=(5, 20, 2))).reshape(-1, 2)
  means = points.reshape(5, 20, 2).mean(1)
  points = jnp.float32(rng.permutation(points))
  found = kmeans(key, points, 5, 3)
  order = np.square(found[:, None] - means).sum(-1).argmin(0)
  assert sorted(order) == list(range(5))
  np.testing.assert_allclose(found[order], means, atol=1e-3)


def test_kmeans_never_gets_worse_and_starts_at_points(key, monkeypatch):
  monkeypatch.setattr(_kmeans, "CHUNK", 16)  # 50 points are three and a rest.
  points = jax.random.normal(key, (50, D))
  books = [kmeans(key, points, 8, i) for i in (0, 1, 2, 4)]
  seeds = {tuple(e) for e in np.asarray(books[0])}
  assert len(seeds) == 8 and seeds <= {tuple(z) for z in np.asarray(points)}
  errors = [distortion(points, book) for book in books]
  assert all(b <= a + 1e-6 for a, b in itertools.pairwise(errors))
  assert errors[-1] < errors[0]
  # One iteration, written out.
  ids = np.square(points[:, None] - books[0]).sum(-1).argmin(-1)
  mean = [np.asarray(points)[ids == k].mean(0) for k in range(8)]
  np.testing.assert_allclose(books[1], mean, rtol=1e-4, atol=1e-5)


def test_seeds_follow_the_squared_distance():
  """From 0, or 1, or 3: the second seed by the squares 1 and 9, and so on."""
  points = jnp.array([[0.0], [1.0], [3.0]])
  keys = jax.random.split(jax.random.key(2), 6000)
  pairs = jax.vmap(lambda k: _kmeans.seed(k, points, 2))(keys)[..., 0]
  for first, second, p in [(0, 3, 9 / 10), (1, 3, 4 / 5), (3, 0, 9 / 13)]:
    drawn = pairs[pairs[:, 0] == first, 1]
    assert abs(len(drawn) / 6000 - 1 / 3) < 4 * np.sqrt(2 / 9 / 6000)
    share = (drawn == second).mean()
    assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / len(drawn))
    assert not (drawn == first).any()


def test_kmeans_needs_points(key):
  with pytest.raises(ValueError, match="there are 3 for 4"):
    _kmeans.kmeans(key, jnp.zeros((3, D)), 4)


def test_a_picture_of_a_codebook_shows_its_share_in_use():
  """Bars fall to the right, and end where dead codes begin."""
  counts = np.array([0, 3, 0, 900, 40, 0, 7, 1, 0, 0])
  picture = pictures.histogram(counts, width=100, height=50)
  assert picture.shape == (74, 100, 3) and picture.dtype == np.uint8
  bars = (picture[24:] == (70, 110, 180)).all(-1)
  used = bars.any(0)
  heights = np.where(used, 50 - bars.argmax(0), 0)
  assert used[:50].all() and not used[50:].any()
  assert (np.diff(heights) <= 0).all()
  assert heights[0] == 50
  # log(1 + 40) / log(1 + 900) of the height.
  assert abs(heights[15] - 50 * np.log(41) / np.log(901)) <= 1.0
  same = pictures.histogram(counts[::-1], width=100, height=50)
  np.testing.assert_array_equal(picture, same)
