"""The pipeline: an image is a function of its number; parts must fit."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import pipeline, weights
from vq_jax.priors import absorbing
from vq_jax.system import System
from vq_jax.train import layout

K, GRID = 5, (2, 3)
PRIOR = absorbing.Prior(vocab_size=K)
DRAW = pipeline.build_sampler({"name": "ancestral", "steps": 4}, PRIOR)


class Net:
  """Logits that depend on every token, the time and the label."""

  grid, vocab_size = GRID, K

  def __init__(self, labels=3):
    self.labels = labels

  def apply(self, variables, z, t, cond, *, train, rngs):
    del train, rngs
    w = jnp.asarray(variables["params"]["w"])
    logits = w[z] + w[z].mean(1, keepdims=True) * t[:, None, None]
    if cond.label is not None:
      logits += 0.5 * jax.nn.one_hot(cond.label, K)[:, None]
    return logits


PARAMS = {"net": {"w": np.random.default_rng(0).normal(size=(K + 1, K)) * 0.5}}


def system(net=None):
  return System(net or Net(), None, "fixed")


@functools.cache
def runner(draw=DRAW, labelled=True, guidance=0.0):
  """(key, image numbers [b]) -> ids; image i shows label i % 3."""
  return jax.jit(
    lambda key, index: pipeline.generate(
      key,
      index,
      {"label": index % 3} if labelled else {},
      system=system(Net(3 if labelled else 0)),
      params=PARAMS,
      prior=PRIOR,
      draw=draw,
      guidance=guidance,
    )
  )


def generate(index, seed=0, **options):
  run = runner(**options)
  return np.asarray(run(jax.random.key(seed), jnp.asarray(index)))


@pytest.fixture(scope="module")
def eight():
  return generate(np.arange(8))


def test_an_image_does_not_depend_on_its_batch(eight):
  assert eight.shape == (8, 6) and (eight >= 0).all() and (eight < K).all()
  halves = [generate(np.arange(4)), generate(np.arange(4, 8))]
  np.testing.assert_array_equal(np.concatenate(halves), eight)
  mixed = np.array([7, 7, 2, 0])
  np.testing.assert_array_equal(generate(mixed), eight[mixed])


def test_an_image_does_not_depend_on_the_mesh(eight):
  mesh = layout.make_mesh(2, 4, 1)
  index = layout.place_batch({"i": np.arange(8)}, mesh)["i"]
  assert {shard.data.shape for shard in index.addressable_shards} == {(1,)}
  np.testing.assert_array_equal(generate(index), eight)


def test_images_differ_by_number_and_seed(eight):
  assert len(np.unique(eight, axis=0)) == 8
  assert (generate(np.arange(8), seed=1) != eight).any(1).all()


def test_a_trajectory_ends_in_its_image(eight):
  section = {"name": "ancestral", "steps": 4}
  chain = pipeline.build_sampler(section, PRIOR, "trajectory")
  states = generate(np.arange(8), draw=chain)
  assert states.shape == (8, 5, 6)
  assert (states[:, 0] == K).all()  # All masks.
  np.testing.assert_array_equal(states[:, -1], eight)


def test_guidance_is_one_network_call_of_twice_the_batch():
  calls = []

  class Counting(Net):
    def apply(self, variables, z, *args, **kwargs):
      calls.append(len(z))
      return super().apply(variables, z, *args, **kwargs)

  request = {"label": jnp.arange(2)}
  model = pipeline.adapt(system(Counting()), PARAMS, request, guidance=1.5)
  z, t = jnp.full((2, 6), K), jnp.ones(2)
  guided = jnp.exp(model.denoise(z, t))
  assert calls == [4]
  pipeline.adapt(system(Counting()), PARAMS, request).denoise(z, t)
  assert calls == [4, 2]  # Without guidance, one call of the batch.

  # p(x | y)^(1 + s) p(x)^-s, normalised, by plain exponents.
  given, free = (
    jnp.exp(pipeline.adapt(system(), PARAMS, {"label": label}).denoise(z, t))
    for label in (jnp.arange(2), jnp.full(2, 3))
  )
  expected = given**2.5 * free**-1.5
  expected /= expected.sum(-1, keepdims=True)
  np.testing.assert_allclose(guided, expected, rtol=1e-4)


def test_guidance_then_truncation_then_temperature():
  """The released order, by NumPy, where every other order differs."""
  given, free = np.random.default_rng(3).normal(size=(2, 1, 6, K))

  class Fixed(Net):
    def apply(self, variables, z, t, cond, **kwargs):
      null = jnp.asarray(cond.label == 3)[:, None, None]
      return jnp.where(null, jnp.asarray(free), jnp.asarray(given))

  model = pipeline.adapt(
    system(Fixed()),
    PARAMS,
    {"label": jnp.zeros(1, int)},
    guidance=2.0,
    top_p=0.8,
    temperature=0.5,
  )
  found = np.exp(model.denoise(jnp.full((1, 6), K), jnp.ones(1)))

  def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

  given, free = np.log(softmax(given)), np.log(softmax(free))
  p = softmax(free + 3.0 * (given - free))
  order = np.argsort(-p, -1)
  ranked = np.take_along_axis(p, order, -1)
  kept = np.cumsum(ranked, -1) - ranked < 0.8
  ranked = np.where(kept, ranked, 0.0) ** 2.0
  ranked /= ranked.sum(-1, keepdims=True)
  expected = np.zeros_like(p)
  np.put_along_axis(expected, order, ranked, -1)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_guidance_without_a_condition_is_refused():
  with pytest.raises(ValueError, match="needs a conditional net"):
    generate(np.arange(2), labelled=False, guidance=1.0)


def test_a_sampler_that_the_prior_cannot_serve_is_refused():
  half = types.SimpleNamespace(start=None, vocab_size=K)
  with pytest.raises(ValueError, match=r"'ancestral' needs .*reverse, finish"):
    pipeline.build_sampler({"name": "ancestral", "steps": 4}, half)
  with pytest.raises(ValueError, match=r"'ancestrl'.*'ancestral'"):
    pipeline.build_sampler({"name": "ancestrl", "steps": 4}, PRIOR)
  with pytest.raises(ValueError, match=r"'step'.*'steps'"):
    pipeline.build_sampler({"name": "ancestral", "step": 4}, PRIOR)
  with pytest.raises(ValueError, match="needs the key 'steps'"):
    pipeline.build_sampler({"name": "ancestral"}, PRIOR)


def test_pixels_survive_the_scale_of_the_tokenizer():
  pixels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
  floats = pipeline.to_float(pixels)
  assert float(floats.min()) == -1.0 and float(floats.max()) == 1.0
  back = pipeline.to_uint8(pipeline.to_unit(floats))
  np.testing.assert_array_equal(back, pixels)
  assert back.dtype == np.uint8
  far = pipeline.to_unit(jnp.array([-9.0, 9.0]))
  np.testing.assert_array_equal(far, [0.0, 1.0])


# --- An exported tokenizer ---

SECTION = dict(
  name="vqgan",
  image_size=8,
  channels=4,
  multipliers=(1, 1),
  blocks=1,
  attention=(),
  groups=2,
  latent_dim=4,
  code_dim=4,
  vocab_size=K,
)


def blank(section):
  """Zeros of the shapes that the section needs."""
  init = functools.partial(
    pipeline.init_tokenizer, pipeline.build_tokenizer(section)
  )
  abstract = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)


def test_an_exported_tokenizer_is_read_back(tmp_path):
  params = jax.tree.map(
    lambda x: np.random.default_rng(0).normal(size=x.shape).astype(x.dtype),
    blank(SECTION),
  )
  weights.save_part(tmp_path, SECTION, params)
  tokenizer, loaded = pipeline.load_tokenizer(tmp_path)
  assert tokenizer == pipeline.build_tokenizer(SECTION)
  flat, others = weights.flatten(params), weights.flatten(loaded)
  assert flat.keys() == others.keys()
  for name, value in flat.items():
    np.testing.assert_array_equal(value, others[name])


def test_an_export_that_does_not_fit_names_the_tensor(tmp_path):
  weights.save_part(tmp_path, {**SECTION, "vocab_size": 7}, blank(SECTION))
  with pytest.raises(
    ValueError, match=r"'quantize/codebook' .*\(5, 4\).*\(7, 4"
  ):
    pipeline.load_tokenizer(tmp_path)
  params = blank(SECTION)
  del params["quantize"]
  weights.save_part(tmp_path, SECTION, params)
  with pytest.raises(ValueError, match="lacks the tensor 'quantize/codebook'"):
    pipeline.load_tokenizer(tmp_path)
