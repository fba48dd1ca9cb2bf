"""Canvases larger than the training images: windows, and tiles of pixels.

golden/ul_bigsample*.npz: what the released sampler of larger images drew, in
raster order, from a table as its network and recorded noise.
"""

import functools
import importlib
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import models, pipeline
from vq_jax.ops import tiling
from vq_jax.priors import absorbing, vq_diffusion
from vq_jax.system import System
from vq_jax.types import Model

GOLDEN = pathlib.Path(__file__).parent / "golden"
K, WINDOW = 5, (2, 3)
TABLE = jax.random.normal(jax.random.key(0), (K + 1, K))
PLACE = jax.random.normal(jax.random.key(1), (6, K))


def toy(z, t):
  """Log-probabilities that depend on place, time, and all that is seen."""
  seen = TABLE[z]
  logits = seen + PLACE * t[:, None, None] + seen.mean(1, keepdims=True)
  return jax.nn.log_softmax(logits)


def states(canvas, b=2):
  shape = (b, math.prod(canvas))
  z = np.random.default_rng(2).integers(0, K + 1, shape)
  return jnp.asarray(z), jnp.linspace(0.3, 0.9, b)


def begins(side, window, stride, shift=0):
  """First positions, each once."""
  last = side - window
  found = range(-shift, last + stride, stride)
  return sorted({min(max(at, 0), last) for at in found})


def mixture(denoise, z, t, canvas, window, strides, shift=(0, 0)):
  """Eq. 8 by a loop over windows and probabilities."""
  (h, w), z = window, np.asarray(z).reshape(len(z), *canvas)
  total, count = 0.0, np.zeros(canvas)
  firsts = map(begins, canvas, window, strides, shift)
  for i, j in itertools.product(*firsts):
    seen = z[:, i : i + h, j : j + w].reshape(len(z), -1)
    probs = np.exp(np.asarray(denoise(seen, t), np.float64))
    one = np.zeros((len(z), *canvas, probs.shape[-1]))
    one[:, i : i + h, j : j + w] = probs.reshape(len(z), h, w, -1)
    total, count = total + one, count + (one[0, :, :, 0] > 0)
  return (total / count[..., None]).reshape(len(z), count.size, -1)


@pytest.mark.parametrize(
  ("canvas", "stride", "chunk"),
  [((4, 5), 1, 4), ((3, 8), (2, 3), 3), ((2, 7), (1, 2), 99), ((5, 3), 2, 1)],
)
def test_a_canvas_is_the_mixture_of_its_windows(canvas, stride, chunk):
  wide = models.widen(
    Model(toy), canvas=canvas, window=WINDOW, stride=stride, chunk=chunk
  )
  z, t = states(canvas)
  strides = (stride, stride) if isinstance(stride, int) else stride
  found = wide.denoise(z, t)
  assert found.dtype == jnp.float32
  expected = mixture(toy, z, t, canvas, WINDOW, strides)
  np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)


def test_one_window_is_the_model_itself():
  model = Model(toy)
  assert models.widen(model, canvas=[2, 3], window=WINDOW) is model


def test_what_no_window_thinks_likely_keeps_its_logarithm():
  """Far below the smallest float32 probability."""
  low = jnp.array([0.0, -200.0])
  model = Model(lambda z, t: jnp.broadcast_to(low, (*z.shape, 2)))
  wide = models.widen(model, canvas=(1, 5), window=(1, 2), stride=1)
  found = wide.denoise(jnp.zeros((1, 5), jnp.int32), jnp.ones(1))
  np.testing.assert_allclose(found, np.broadcast_to(low, (1, 5, 2)), atol=1e-4)


@pytest.mark.parametrize("case", ["ul_bigsample", "ul_bigsample_h"])
def test_the_released_raster_order_sampler(case):
  data = np.load(GOLDEN / f"{case}.npz")
  canvas = data["out"].shape[1:]
  k = data["W"].shape[1]
  temperature = {"ul_bigsample": 0.8, "ul_bigsample_h": 1.0}[case]
  table, place = jnp.asarray(data["W"]), jnp.asarray(data["P"])
  model = Model(lambda z, t: jax.nn.log_softmax(table[z] + place))
  model = models.widen(model, canvas=canvas, window=(3, 3), stride=1, chunk=5)
  model = models.temper(model, temperature)

  def step(z, inputs):
    place, noise = inputs  # Exponential, as `torch.multinomial` draws it.
    score = model.denoise(z, jnp.ones(2)) - jnp.log(noise)
    token = jnp.argmax(score, -1)
    return jnp.where(jnp.arange(z.shape[1]) == place, token, z), None

  noise = data["exp"].reshape(len(data["exp"]), 2, -1, k)
  start = jnp.full(noise.shape[1:3], k)
  ids, _ = jax.lax.scan(step, start, (jnp.arange(len(noise)), noise))
  np.testing.assert_array_equal(ids.reshape(2, *canvas), data["out"])


@pytest.mark.parametrize("shape", [(7, 3, 2), (9, 4, 4), (5, 5, 3), (6, 5, 2)])
def test_shifted_windows_cover_each_position_and_count_once(shape):
  side, window, stride = shape
  for shift in range(stride):
    found = tiling.axis(side, window, stride, shift)
    real = np.asarray(found.start)[np.asarray(found.real)]
    expected = begins(side, window, stride, shift)
    np.testing.assert_array_equal(real, expected)
    cover = np.zeros(side)
    for first in expected:
      cover[first : first + window] += 1
    np.testing.assert_array_equal(found.cover, cover)
    assert cover.min() >= 1


def test_a_key_shifts_the_windows_anew_at_each_time(key):
  """Every mixture is that of one shift, and all shifts occur."""
  canvas, strides = (3, 7), (1, 3)
  wide = models.widen(
    Model(toy), canvas=canvas, window=WINDOW, stride=strides, key=key
  )
  z, _ = states(canvas)
  seen = set()
  denoise = jax.jit(wide.denoise)
  for time in np.linspace(0.1, 1.0, 12, dtype=np.float32):
    t = jnp.full(2, time)
    found = np.exp(denoise(z, t))
    near = [
      np.allclose(
        found, mixture(toy, z, t, canvas, WINDOW, strides, (0, s)), 1e-4
      )
      for s in range(3)
    ]
    assert sum(near) == 1
    seen.add(near.index(True))
  assert seen == {0, 1, 2}


def test_windows_share_network_calls():
  shapes = []

  def host(z):
    shapes.append(z.shape)
    return np.zeros((*z.shape, K), np.float32)

  def denoise(z, t):
    said = jax.ShapeDtypeStruct((*z.shape, K), jnp.float32)
    return jax.pure_callback(host, said, z, vmap_method="expand_dims")

  z, t = states((4, 5))  # Nine windows.
  for chunk, expected in ((9, [9]), (4, [3, 3, 3]), (5, [5, 5])):
    shapes.clear()
    wide = models.widen(
      Model(denoise), canvas=(4, 5), window=WINDOW, stride=1, chunk=chunk
    )
    jax.block_until_ready(wide.denoise(z, t))
    assert shapes == [(k, 2, 6) for k in expected]


# --- Every prior and sampler ---


def pattern(canvas):
  """Ids that one visible token tells all of, wherever a window lies."""
  i, j = np.indices(canvas)
  return (i + 2 * j).reshape(-1) % K


def oracle(z, t):
  del t
  offset = jnp.asarray(pattern((3, 3)))
  phase = jnp.max(jnp.where(z < K, (z - offset) % K, -1), 1, keepdims=True)
  return jax.nn.log_softmax(60.0 * jax.nn.one_hot((phase + offset) % K, K))


@pytest.mark.parametrize(
  ("prior", "name"),
  [
    (absorbing.Prior(K), "ancestral"),
    (absorbing.Prior(K), "fewer_tokens"),
    (absorbing.Prior(K), "purity"),
    (vq_diffusion.Prior(K, time_steps=10), "ancestral"),
  ],
)
def test_an_oracle_of_windows_draws_any_canvas(prior, name, key):
  canvas = (4, 7)
  x = pattern(canvas).reshape(canvas)
  lattice = np.indices(canvas).sum(0) % 3 == 0  # Each window sees some.
  known = jnp.asarray(np.where(lattice, x, K).reshape(1, -1))
  model = models.widen(Model(oracle), canvas=canvas, window=(3, 3), stride=2)
  sample = importlib.import_module(f"vq_jax.samplers.{name}").sample
  run = functools.partial(sample, steps=4, known=known)
  ids = jax.jit(lambda key: run(key, model, prior, (2, x.size)))(key)
  np.testing.assert_array_equal(ids, np.tile(x.reshape(-1), (2, 1)))


class Net:
  """`toy` with a class, as a Linen net is called."""

  grid, vocab_size, labels = WINDOW, K, 3

  def apply(self, variables, z, t, cond, *, train, rngs):
    del variables, train, rngs
    return toy(z, t) + TABLE[cond.label][:, None]


SYSTEM, PARAMS = System(Net(), None, "fixed"), {"net": {}}


def test_guidance_is_inside_the_windows_and_temperature_outside():
  """Each image of the batch keeps its class in all of its windows."""
  canvas = (3, 5)
  request = {"label": jnp.array([0, 2])}
  adapt = functools.partial(
    pipeline.adapt, SYSTEM, PARAMS, request, guidance=1.5
  )
  z, t = states(canvas)
  wide = adapt(canvas=canvas, stride=1, windows=4, temperature=0.5)
  probs = mixture(adapt().denoise, z, t, canvas, WINDOW, (1, 1)) ** 2
  probs /= probs.sum(-1, keepdims=True)
  np.testing.assert_allclose(np.exp(wide.denoise(z, t)), probs, rtol=1e-4)


def test_the_training_grid_as_a_canvas_changes_no_bit():
  request = {"label": jnp.array([0, 2])}
  adapt = functools.partial(pipeline.adapt, SYSTEM, PARAMS, request)
  plain, wide = (
    model.denoise(*states(WINDOW)) for model in (adapt(), adapt(canvas=WINDOW))
  )
  np.testing.assert_array_equal(plain, wide)


def test_images_of_a_canvas_are_functions_of_their_number():
  """Also with windows that move, each image at times of its own."""
  prior = absorbing.Prior(K)
  draw = pipeline.build_sampler({"name": "purity", "steps": 3}, prior)
  known = jnp.full(15, K).at[jnp.array([1, 2, 7])].set(jnp.array([3, 0, 2]))
  run = jax.jit(
    lambda index: pipeline.generate(
      jax.random.key(0),
      index,
      {"label": index % 3},
      system=SYSTEM,
      params=PARAMS,
      prior=prior,
      draw=draw,
      canvas=(3, 5),
      stride=2,
      jitter=True,
      known=known,
    )
  )
  four = np.asarray(run(jnp.arange(4)))
  assert four.shape == (4, 15) and (four < K).all()
  assert (four[:, [1, 2, 7]] == [3, 0, 2]).all()
  assert len(np.unique(four, axis=0)) == 4
  order = np.array([3, 1, 1, 0])
  np.testing.assert_array_equal(run(jnp.asarray(order)), four[order])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"canvas": (1, 9)}, "at least the 2 x 3"),
    ({"canvas": (4, 4, 4)}, "two numbers"),
    ({"canvas": (4, 4), "stride": 3}, "from 1 to the 2 x 3"),
    ({"canvas": (4, 4), "stride": (1, 0)}, "from 1 to"),
    ({"canvas": (4, 4), "chunk": 0}, "at least 1 window"),
  ],
)
def test_windows_that_cannot_be_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    models.widen(Model(toy), window=WINDOW, **options)


# --- Decoding in tiles ---


class Painter:
  """Two pixels a code, by one convolution that reaches one code far."""

  factor, grid, image_channels = 2, (4, 4), 1
  calls: list

  def __init__(self):
    self.calls = []

  def apply(self, variables, ids, grid, *, method):
    assert method == "decode"
    self.calls.append((len(ids), *grid))
    x = jnp.sin(1.0 + ids.reshape(-1, *grid, 1))
    x = x.repeat(2, 1).repeat(2, 2)
    kernel = variables["params"]
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


KERNEL = np.random.default_rng(3).normal(size=(5, 5, 1, 1)) * 0.2
GRID = (9, 14)
IDS = jnp.asarray(np.random.default_rng(4).integers(0, 99, (2, 9 * 14)))


@pytest.mark.parametrize("tile", [(8, 8), (6, 14), (7, 9), (20, 5)])
def test_tiles_join_without_a_seam(tile):
  """A dropped quarter of the overlap is as wide as the decoder reaches."""
  painter = Painter()
  kernel = jnp.asarray(KERNEL, jnp.float32)
  whole = pipeline.decode(painter, kernel, IDS, GRID)
  painter.calls.clear()
  tiled = pipeline.decode_tiled(
    painter, kernel, IDS, GRID, tile=tile, overlap=4
  )
  assert set(painter.calls) == {(2, min(tile[0], 9), min(tile[1], 14))}
  np.testing.assert_allclose(tiled, whole, atol=2e-6)
  assert float(whole.std()) > 0.1


def test_without_overlap_the_seam_is_as_wide_as_the_decoder_reaches():
  kernel = jnp.asarray(KERNEL, jnp.float32)
  args = (Painter(), kernel, IDS[:, : 7 * 14], (7, 14))
  tiled = pipeline.decode_tiled(*args, tile=(7, 7), overlap=0)
  error = np.abs(tiled - pipeline.decode(*args)).max((0, 1, 3))  # [28]
  near = np.abs(np.arange(28) - 13.5) < 2
  assert (error[near] > 0.01).all() and (error[~near] < 2e-6).all()


def test_one_tile_is_the_plain_decoder_bitwise():
  kernel = jnp.asarray(KERNEL, jnp.float32)
  args = (Painter(), kernel, IDS[:, :63], (7, 9))
  whole = np.asarray(pipeline.decode(*args))
  tiled = pipeline.decode_tiled(*args, tile=(7, 9))
  np.testing.assert_array_equal(tiled, whole)
  # Twice the training grid is one tile too; more is not.
  painter = Painter()
  for grid in ((8, 8), (8, 9)):
    ids = IDS[:, : math.prod(grid)]
    pipeline.decode_tiled(painter, kernel, ids, grid)
  assert set(painter.calls) == {(2, 8, 8)}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"tile": (4,)}, "two numbers"),
    ({"tile": (4, 0)}, "two numbers"),
    ({"tile": (4, 4), "overlap": 4}, "cannot overlap by 4"),
  ],
)
def test_tiles_that_cannot_be_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    pipeline.decode_tiled(Painter(), None, IDS, GRID, **options)
