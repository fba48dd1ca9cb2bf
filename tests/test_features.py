"""The contract of the networks that measure, and how they are refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vq_jax import features, plugins, weights
from vq_jax.features import _frozen, emoji

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
  return features.make("emoji")


def test_the_emoji_network_is_its_own_functions(network):
  params = emoji.load()
  pool, embedding = jax.jit(emoji.image_features)(params, IMAGES / 255.0)
  found = network.images(IMAGES)
  np.testing.assert_allclose(found["pool"], pool, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found["embedding"], embedding, atol=1e-5)
  captions = ["fluent crab", "noto dog"]
  texts = emoji.text_embedding(params, captions)
  np.testing.assert_array_equal(network.texts(captions), texts)
  assert network.source["file"] == "emoji.safetensors"


def test_eight_devices_see_what_one_sees(network):
  mesh = Mesh(np.array(jax.devices()), ("data",))
  spread = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("data")))
  one, eight = network.images(IMAGES), network.images(spread)
  assert len(eight["pool"].sharding.device_set) == len(jax.devices()) == 8
  for name, value in one.items():
    np.testing.assert_allclose(eight[name], value, rtol=1e-5, atol=1e-5)


def test_products_are_whole_on_any_device():
  """What is compiled asks for it, so that no backend shortens them."""
  lowered = _frozen.whole(jnp.dot).lower(np.ones((2, 2)), np.ones((2, 2)))
  assert "HIGHEST" in lowered.as_text()


@pytest.mark.parametrize(
  ("images", "told"),
  [
    (IMAGES / 255.0, r"uint8 images \[b h w 3\]; these are float64 \[8, 20"),
    (IMAGES[0], r"these are uint8 \[20, 24, 3\]"),
    (IMAGES[..., :1], r"these are uint8 \[8, 20, 24, 1\]"),
  ],
)
def test_what_are_no_images_is_refused(network, images, told):
  with pytest.raises(ValueError, match=told):
    network.images(images)


def test_the_hash_is_of_the_numbers():
  tree = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(2)}
  same = {"b": jnp.zeros(2), "a": {"kernel": np.ones((2, 3), np.float16)}}
  assert _frozen.digest(tree) == _frozen.digest(same)
  changes = [
    {**tree, "b": np.array([0.0, 1e-7])},
    {"a": tree["a"], "c": tree["b"]},
    {**tree, "a": {"kernel": np.ones((3, 2))}},
  ]
  assert _frozen.digest(tree) not in map(_frozen.digest, changes)


@pytest.mark.parametrize("name", ["inception", "clip", "lpips"])
def test_missing_weights_name_the_file_and_the_command(name, tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    features.make(name, str(tmp_path))
  told = str(error.value)
  assert "\n" not in told and re.search(r"get \S+\.(pth|safetensors) of", told)
  command = re.search(r"`python -m vq_jax.main (.*)`", told)[1].split()
  family = re.search(r"--family=(\w+)", told)[1]
  assert family in plugins.available("convert")
  assert command[0] == "--mode=convert"
  assert command[-1] == f"--dst={tmp_path / name}"


def test_another_network_is_refused(tmp_path):
  target = tmp_path / "inception"
  weights.save_part(target, {"name": "vqgan"}, {"a": np.ones(1)})
  with pytest.raises(ValueError, match=r"'vqgan', not inception: .*--family"):
    features.make("inception", str(tmp_path))
  with pytest.raises(ValueError, match="Did you mean 'inception'"):
    features.make("inceptoin")


@pytest.mark.parametrize("name", plugins.available("features"))
def test_every_network_has_an_extractor(name):
  assert callable(plugins.resolve("features", name).extractor)
