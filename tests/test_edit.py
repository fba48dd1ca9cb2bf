"""Editing: what is known stays, to the pixel; what is not is painted."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from configs import emoji32_vqgan, vq_diffusion_emoji_text
from vq_jax import pipeline, weights
from vq_jax.priors import absorbing, vq_diffusion
from vq_jax.samplers import ancestral
from vq_jax.train import actions, checkpoint, edit, prior
from vq_jax.train.task import new_state
from vq_jax.types import Model

RNG = np.random.default_rng(0)


# --- The chain starts where the picture is ---


@pytest.mark.parametrize(
  ("chain", "inverse"),
  [
    (absorbing.Prior(5), lambda share: share),
    (
      absorbing.Prior(5, schedule="cosine"),
      lambda share: np.arcsin(share) * 2 / np.pi,
    ),
    (vq_diffusion.Prior(5, time_steps=50), lambda share: share),
    (vq_diffusion.Prior(5, schedule="mixture"), lambda share: share),
  ],
)
def test_the_chain_starts_at_the_time_that_has_lost_as_much(chain, inverse):
  """By the inverse of each schedule, to the nearest of n times."""
  n = 64
  for free in (1, 16, 40, 63, 64):
    known = jnp.where(jnp.arange(n) < free, chain.vocab_size, 0)
    found = float(ancestral.level(chain, known[None]))
    expected = inverse(free / n)
    assert abs(found - max(expected, 1 / n)) <= 1.01 / n + 0.02 * (free == 1)


def test_the_net_is_told_the_share_that_it_sees_masked(key):
  """A model that says the time as a token: each is the time it was drawn at."""
  n, free, steps, k = 64, 16, 4, 129
  chain = absorbing.Prior(k)

  def denoise(z, t):
    told = jnp.round(t * (k - 1))[:, None]
    said = jax.nn.one_hot(told.astype(int), k) * 100.0
    return jnp.broadcast_to(said, (*z.shape, k))

  known = jnp.where(jnp.arange(n) < free, k, 0)[None]
  run = functools.partial(ancestral.trajectory, steps=steps, known=known)
  states = jax.jit(lambda key: run(key, Model(denoise), chain, (200, n)))(key)
  states = np.asarray(states)
  for i in range(steps):
    drawn = (states[i] == k) & (states[i + 1] != k)
    share = (states[i] == k).mean()  # On average over 200 images.
    told = states[i + 1][drawn] / (k - 1)
    np.testing.assert_allclose(told, share, atol=0.02)
    assert drawn.any()


# --- Pixels ---


def test_growing_continues_the_known_and_hides_the_rest():
  known = np.zeros((9, 12), bool)
  known[2:5, 3:6] = known[7, 10] = True
  pixels = RNG.integers(0, 256, (9, 12, 3), np.uint8)
  filled, distance = edit.grow(pixels, known, 4)
  i, j = np.indices(known.shape)
  steps = np.min(
    [abs(i - a) + abs(j - b) for a, b in np.argwhere(known)], axis=0
  )
  np.testing.assert_array_equal(distance, np.minimum(steps, 5))
  np.testing.assert_array_equal(filled[known], pixels[known])
  mean = np.round(pixels[known].mean(0))
  far = filled[steps > 4]
  assert len(far) and (far == mean).all()
  # The neighbours of (5, 3) are one known pixel, and others that are not.
  np.testing.assert_array_equal(filled[5, 3], pixels[4, 3])
  # What lies under the mask has no influence, on anything.
  other = np.where(known[..., None], pixels, 255 - pixels)
  np.testing.assert_array_equal(edit.grow(other, known, 4)[0], filled)


def test_an_edit_fades_in_from_the_known_pixels_outwards():
  distance = np.arange(6)[None]
  old, new = np.full((1, 6, 3), 200, np.uint8), np.zeros((2, 1, 6, 3), np.uint8)
  found = edit.paste(old, new, distance, seam=3)
  assert found.shape == new.shape and found.dtype == np.uint8
  np.testing.assert_array_equal(found[1, 0, :, 0], [200, 150, 100, 50, 0, 0])


def test_a_token_is_free_if_the_mask_touches_one_of_its_pixels():
  change = RNG.random((8, 12)) < 0.05
  found = edit.cells(change, 4)
  for i, j in itertools.product(range(2), range(3)):
    part = change[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
    assert found[i, j] == (part.sum() > 0)
  assert 0 < found.sum() < 6


# --- A run: smoke sizes, 2 pixels a token, 8x8 tokens ---


def draw(init, scale=0.4):
  """Random weights of the shapes that `init` would make; nothing compiles."""
  shapes = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(
    lambda x: RNG.normal(0.0, scale, x.shape).astype(x.dtype), shapes
  )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(config, directory) of a prior over captions, never trained."""
  workdir = tmp_path_factory.mktemp("edit")
  config = json.loads(vq_diffusion_emoji_text.get_config("smoke").to_json())
  config["sample"] |= {"count": 3, "batch": 2}
  section = emoji32_vqgan.get_config("smoke").tokenizer.to_dict()
  tokenizer = pipeline.build_tokenizer(section)
  init = functools.partial(pipeline.init_tokenizer, tokenizer)
  weights.save_part(workdir / "tokenizer", section, draw(init))
  checkpoint.claim(workdir, config)
  store = actions.open_store(config, workdir)
  params = draw(prior.initial(config))
  state = new_state(params, (), ())
  store.save(1, state, {config["keep"]["best"]: 1.0})
  store.close()
  return config, workdir


THIRD = np.arange(18) < np.full((16, 1), 12)


def picture(path, h, w, opaque=None, name="in.png"):
  """A random picture; `opaque` bool [h w] makes the rest transparent."""
  pixels = RNG.integers(0, 256, (h, w, 3), np.uint8)
  if opaque is not None:
    alpha = np.where(opaque, 255, 0).astype(np.uint8)[..., None]
    pixels = np.concatenate([pixels, alpha], -1)
  Image.fromarray(pixels).save(path / name)
  return pixels, str(path / name)


def test_outpainting_keeps_the_picture_and_paints_around_it(run, tmp_path):
  """A canvas of 8x12 tokens: wider than the net was made for."""
  config, workdir = run
  opaque = np.zeros((16, 24), bool)
  opaque[:, :11] = True  # Not to the border of a token.
  pixels, file = picture(tmp_path, 16, 24, opaque)
  edit.edit(config, workdir, toy.one_device(), image=file, caption="a crab")
  files = sorted((workdir / "edits" / "in").glob("*.png"))
  assert [f.name for f in files] == [f"{i:06d}.png" for i in range(3)]
  variants = np.stack([np.asarray(Image.open(f)) for f in files])
  assert variants.shape == (3, 16, 24, 3)
  kept = np.broadcast_to(pixels[None, ..., :3], variants.shape)[:, opaque]
  np.testing.assert_array_equal(variants[:, opaque], kept)
  for one, two in itertools.combinations(variants, 2):
    assert (one[:, 12:] != two[:, 12:]).any()
  with Image.open(workdir / "edits" / "in.png") as page:
    assert min(page.size) > 32


@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_adds_to_what_is_transparent(tmp_path, scale):
  opaque = np.ones((6, 8), bool)
  opaque[0, 0] = False
  pixels, image = picture(tmp_path, 6, 8, opaque)
  white = np.zeros((6, 8), np.uint8)
  white[3:, 5:] = 255
  larger = white.repeat(scale, 0).repeat(scale, 1)
  Image.fromarray(larger).save(tmp_path / "mask.png")
  found, change = edit.read(image, str(tmp_path / "mask.png"))
  np.testing.assert_array_equal(found, pixels[..., :3])
  np.testing.assert_array_equal(change, (white > 0) | ~opaque)


@pytest.mark.parametrize(
  ("size", "opaque", "mask", "changes", "message"),
  [
    (None, None, None, {}, "needs --image"),
    ((16, 16), None, None, {}, "Nothing is to be changed"),
    ((16, 16), np.zeros((16, 16)), None, {}, "every token"),
    ((16, 15), None, None, {}, "15 x 16 pixels; .* multiples of 2"),
    ((14, 16), None, None, {}, "at least 16 x 16"),
    ((16, 16), None, (16, 18), {}, "16 x 16 pixels, the mask 18 x 16"),
    ((16, 18), THIRD, None, {"caption": None}, "--caption=TEXT"),
    ((16, 18), THIRD, None, {"label": 3}, "0 classes"),
  ],
)
def test_what_cannot_be_edited_is_told(
  run, tmp_path, size, opaque, mask, changes, message
):
  config, workdir = run
  words = {"image": None, "caption": "a crab", **changes}
  if size:
    words["image"] = picture(tmp_path, *size, opaque)[1]
  if mask:
    words["mask"] = picture(tmp_path, *mask, name="mask.png")[1]
  with pytest.raises(ValueError, match=message):
    edit.edit(config, workdir, toy.one_device(), **words)


def test_a_file_that_is_no_picture_is_named(run, tmp_path):
  config, workdir = run
  here = toy.one_device()
  with pytest.raises(FileNotFoundError, match=r"no\.png"):
    edit.edit(config, workdir, here, image=str(tmp_path / "no.png"))
  (tmp_path / "in.png").write_text("not a picture")
  with pytest.raises(OSError, match=r"in\.png"):
    edit.edit(config, workdir, here, image=str(tmp_path / "in.png"))
