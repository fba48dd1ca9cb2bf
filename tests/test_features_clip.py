"""CLIP's towers against the model as OpenAI writes it down, in float64."""

import functools
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from by_hand import conv, layer_norm
from PIL import Image

from vq_jax import features, weights
from vq_jax.convert import clip as text_convert
from vq_jax.convert import clip_towers as convert
from vq_jax.features import clip
from vq_jax.train import imported

# Sizes of a small CLIP: a text tower of 1 head, an image tower of 2.
TEXT = dict(length=8, dim=64, layers=2, heads=1, vocab_size=516)
IMAGE = dict(size=8, patch=4, dim=128, layers=2, heads=2)
DIM = 24
BICUBIC = Image.Resampling.BICUBIC
CAPTIONS = ["a cat", "cat cat cat cat", ""]


@functools.cache
def released():
  """A random state dict under OpenAI's names."""
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.standard_normal(shape, np.float32)

  state = {
    "token_embedding.weight": draw(516, 64),
    "positional_embedding": draw(8, 64),
    "text_projection": draw(64, DIM) / 8,
    "visual.conv1.weight": draw(128, 3, 4, 4) / 7,
    "visual.class_embedding": draw(128),
    "visual.positional_embedding": draw(1 + 4, 128),
    "visual.proj": draw(128, DIM) / 11,
    "logit_scale": np.full((), 4.6, np.float32),
  }
  norms = {"ln_final": 64, "visual.ln_pre": 128, "visual.ln_post": 128}
  for tower, d in (("", 64), ("visual.", 128)):
    for i in range(2):
      block = f"{tower}transformer.resblocks.{i}"
      norms |= {f"{block}.ln_1": d, f"{block}.ln_2": d}
      for name, out, inputs in (
        ("attn.in_proj_", 3 * d, d),
        ("attn.out_proj.", d, d),
        ("mlp.c_fc.", 4 * d, d),
        ("mlp.c_proj.", d, 4 * d),
      ):
        scale = np.float32(inputs**-0.5)
        state[f"{block}.{name}weight"] = draw(out, inputs) * scale
        state[f"{block}.{name}bias"] = draw(out) / 5
  for name, d in norms.items():
    state |= {f"{name}.weight": 1 + draw(d) / 5, f"{name}.bias": draw(d) / 5}
  return state


def hugging_face(state):
  """The same model under the other names, spelt out key by key."""
  text, image = "text_model", "vision_model"
  old = {
    "token_embedding.weight": f"{text}.embeddings.token_embedding.weight",
    "positional_embedding": f"{text}.embeddings.position_embedding.weight",
    "visual.conv1.weight": f"{image}.embeddings.patch_embedding.weight",
    "visual.class_embedding": f"{image}.embeddings.class_embedding",
    "visual.positional_embedding": (
      f"{image}.embeddings.position_embedding.weight"
    ),
    "logit_scale": "logit_scale",
  }
  new = {
    "text_projection.weight": state["text_projection"].T.copy(),
    "visual_projection.weight": state["visual.proj"].T.copy(),
    f"{image}.embeddings.position_ids": np.arange(5)[None],
    f"{text}.embeddings.position_ids": np.arange(8)[None],
  }
  for kind in ("weight", "bias"):
    old[f"ln_final.{kind}"] = f"{text}.final_layer_norm.{kind}"
    old[f"visual.ln_pre.{kind}"] = f"{image}.pre_layrnorm.{kind}"
    old[f"visual.ln_post.{kind}"] = f"{image}.post_layernorm.{kind}"
    for tower, theirs in (("", text), ("visual.", image)):
      for i in range(2):
        block = f"{tower}transformer.resblocks.{i}"
        layer = f"{theirs}.encoder.layers.{i}"
        for a, b in (
          ("ln_1", "layer_norm1"),
          ("ln_2", "layer_norm2"),
          ("attn.out_proj", "self_attn.out_proj"),
          ("mlp.c_fc", "mlp.fc1"),
          ("mlp.c_proj", "mlp.fc2"),
        ):
          old[f"{block}.{a}.{kind}"] = f"{layer}.{b}.{kind}"
        packed = state[f"{block}.attn.in_proj_{kind}"]
        for letter, part in zip("qkv", np.split(packed, 3), strict=True):
          new[f"{layer}.self_attn.{letter}_proj.{kind}"] = part.copy()
  return new | {theirs: state[ours] for ours, theirs in old.items()}


def transformer(state, prefix, x, heads, causal):
  """x [m d] through two residual attention blocks."""

  def linear(y, w, b):
    return y @ state[w].astype(np.float64).T + state[b]

  for i in range(2):
    block = f"{prefix}transformer.resblocks.{i}"
    y = layer_norm(x, state, f"{block}.ln_1")
    name = f"{block}.attn.in_proj_"
    q, k, v = np.split(linear(y, f"{name}weight", f"{name}bias"), 3, axis=-1)
    out = np.empty_like(q)
    for head in np.split(np.arange(q.shape[1]), heads):
      scores = q[:, head] @ k[:, head].T / 8.0  # The root of 64.
      if causal:
        scores[np.triu_indices(len(scores), 1)] = -np.inf
      scores = np.exp(scores - scores.max(-1, keepdims=True))
      out[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, head]
    name = f"{block}.attn.out_proj."
    x = x + linear(out, f"{name}weight", f"{name}bias")
    y = layer_norm(x, state, f"{block}.ln_2")
    y = linear(y, f"{block}.mlp.c_fc.weight", f"{block}.mlp.c_fc.bias")
    y = y / (1 + np.exp(-1.702 * y))
    x = x + linear(y, f"{block}.mlp.c_proj.weight", f"{block}.mlp.c_proj.bias")
  return x


def image_by_hand(state, image):
  """uint8 [8 8 3] -> [DIM]: nothing is resized."""
  mean = (0.48145466, 0.4578275, 0.40821073)
  x = (image / 255 - mean) / (0.26862954, 0.26130258, 0.27577711)
  x = conv(x, state["visual.conv1.weight"], stride=4).reshape(4, 128)
  x = np.concatenate([state["visual.class_embedding"][None], x])
  x = x + state["visual.positional_embedding"]
  x = layer_norm(x, state, "visual.ln_pre")
  x = transformer(state, "visual.", x, heads=2, causal=False)
  return layer_norm(x[0], state, "visual.ln_post") @ state["visual.proj"]


def text_by_hand(state, ids):
  """ids [8] -> [DIM]; 515 marks the end."""
  x = state["token_embedding.weight"][ids] + state["positional_embedding"]
  x = transformer(state, "", x.astype(np.float64), heads=1, causal=True)
  end = list(ids).index(515)
  return layer_norm(x[end], state, "ln_final") @ state["text_projection"]


@pytest.fixture
def converted(tmp_path):
  """A directory as --mode=convert writes it."""
  safetensors.numpy.save_file(released(), tmp_path / "model.safetensors")
  target = str(tmp_path / "clip")
  source = str(tmp_path / "model.safetensors")
  imported.convert("clip_towers", source, target)
  return target


def unit(x):
  return x / np.linalg.norm(x)


def test_official_embeddings(converted, tmp_path):
  pictures = features.make("clip", str(tmp_path))
  merges = tmp_path / "clip" / "merges.txt"
  merges.write_text("#version: 0.2\nc a\nca t</w>\n")
  network = features.make("clip", str(tmp_path))
  assert pictures.texts is None and pictures.hash == network.hash
  images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
  found = network.images(images)
  for i, image in enumerate(images):
    wanted = image_by_hand(released(), image)
    np.testing.assert_allclose(found["pool"][i], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["embedding"][i], unit(wanted), atol=1e-5)
  texts = network.texts(CAPTIONS)
  _, encoder = clip.towers({"text": TEXT, "image": IMAGE}, str(merges))
  for text, ids in zip(texts, encoder.words(CAPTIONS), strict=True):
    wanted = unit(text_by_hand(released(), ids))
    np.testing.assert_allclose(text, wanted, atol=1e-5)
  assert network.source["file"] == "model.safetensors"


def test_both_layouts_give_the_same_towers(tmp_path):
  theirs = hugging_face(released())
  configs, params = [], []
  for state in (released(), theirs):
    safetensors.numpy.save_file(state, tmp_path / "model")
    config, tree = convert.load(tmp_path / "model")
    configs.append(config)
    params.append(tree)
  text = {"length": 8, **TEXT}
  wanted = {"name": "clip", "dim": DIM, "text": text, "image": IMAGE}
  assert configs == [wanted, wanted]
  jax.tree.map(np.testing.assert_array_equal, *params)
  tower = text_convert.text_tower(theirs)
  jax.tree.map(np.testing.assert_array_equal, params[0]["text"], tower)


@pytest.mark.parametrize("layout", [dict, hugging_face])
def test_the_converter_accounts_for_every_key(layout, tmp_path):
  whole = layout(released())
  file = tmp_path / "model"
  for gone in list(whole)[::19]:
    state = {key: value for key, value in whole.items() if key != gone}
    safetensors.numpy.save_file(state, file)
    if gone == "logit_scale" or gone.endswith("position_ids"):
      convert.load(file)
    else:
      with pytest.raises(ValueError, match=r"CLIP .*(lacks|this config needs)"):
        convert.load(file)
  safetensors.numpy.save_file(whole | {"visual.gate": np.zeros(1)}, file)
  with pytest.raises(ValueError, match=r"'visual\.gate', which has no place"):
    convert.load(file)


@pytest.mark.parametrize("sides", [(8, 8), (31, 31), (9, 14), (40, 17)])
def test_images_are_prepared_as_pillow_does_it(sides):
  """Shorter side to 8, middle square; columns first, as Pillow did of old.

  Pillow 13 takes the rows of tall images first, unless it is asked twice.
  """
  images = np.random.default_rng(2).integers(0, 256, (3, *sides, 3), np.uint8)
  ours = np.asarray(clip.crop(images, 8))
  h, w = sides
  h, w = (8, int(8 * w / h)) if h <= w else (int(8 * h / w), 8)
  top, left = round((h - 8) / 2), round((w - 8) / 2)
  for image, mine in zip(images, ours, strict=True):
    columns = Image.fromarray(image).resize((w, sides[0]), BICUBIC)
    whole = np.asarray(columns.resize((w, h), BICUBIC), np.float32)
    wanted = whole[top : top + 8, left : left + 8]
    assert np.abs(mine - wanted).max() <= 1
    assert (mine == wanted).mean() > 0.99


def test_published_parameter_count():
  """ViT-B/32 has 151,277,313 parameters, one of them the scale of the loss."""
  text = dict(length=77, dim=512, layers=12, heads=8, vocab_size=49408)
  image = dict(size=224, patch=32, dim=768, layers=12, heads=12)
  shapes = clip.abstract({"dim": 512, "text": text, "image": image})
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 151_277_312


def test_what_is_no_pair_of_towers_is_refused(tmp_path, converted):
  pathlib.Path(converted, "merges.txt").write_text("#version: 0.2\n")
  with pytest.raises(ValueError, match=r"holds 0 merges"):
    clip.extractor(converted)
  text_alone = {k: v for k, v in released().items() if "visual" not in k}
  safetensors.numpy.save_file(text_alone, tmp_path / "text")
  with pytest.raises(ValueError, match="lacks the tensor 'vision_model"):
    convert.load(tmp_path / "text")
  config, params = weights.load_part(converted)
  weights.save_part(converted, {**config, "dim": 25}, params)
  with pytest.raises(ValueError, match=r"image_projection/kernel.* \(128, 25"):
    clip.extractor(converted)
