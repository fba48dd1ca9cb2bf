"""--mode=convert, and runs that start from what it wrote."""

import functools
import hashlib
import pathlib

import jax
import numpy as np
import pytest

from vq_jax import pipeline, plugins, weights
from vq_jax.convert import _torch
from vq_jax.system import init_net
from vq_jax.train import actions, imported

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture
def official(monkeypatch, tmp_path):
  """(file, images [b h w c] in 0..255, ids, state) of a released tokenizer."""
  with np.load(GOLDEN / "taming_vqmodel.weights.npz") as file:
    state = {k: v.astype(np.float32) for k, v in file.items()}
  with np.load(GOLDEN / "taming_vqmodel.npz") as file:
    images, ids = np.moveaxis(file["image"], 1, -1), file["indices"]
  # torch is not needed to know what becomes of what it reads.
  monkeypatch.setattr(_torch, "read", lambda path: {"state_dict": state})
  path = tmp_path / "last.ckpt"
  path.write_bytes(b"what torch would read")
  return str(path), images, ids


def zeros(section):
  """Fresh weights of a tokenizer, which cost nothing to make."""
  tokenizer = pipeline.build_tokenizer(section)
  init = functools.partial(pipeline.init_tokenizer, tokenizer)
  abstract = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)


def test_a_converted_tokenizer_encodes_as_its_authors_one(official, tmp_path):
  path, images, ids = official
  target = tmp_path / "converted"
  imported.convert("taming", path, str(target), ["image_size=32"])
  tokenizer, params = pipeline.load_tokenizer(target)
  encode = jax.jit(functools.partial(tokenizer.apply, method="encode"))
  found = encode({"params": params}, images)
  np.testing.assert_array_equal(np.ravel(found), np.ravel(ids))
  source = weights.load_json(target / imported.PROVENANCE, "")
  assert source == {
    "family": "taming",
    "file": "last.ckpt",
    "sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest(),
    "options": {"image_size": 32},
  }
  with pytest.raises(ValueError, match="choose another --dst"):
    imported.convert("taming", path, str(target))


def test_a_run_starts_from_a_converted_tokenizer(official, tmp_path):
  target = tmp_path / "converted"
  imported.convert("taming", official[0], str(target), ["image_size=32"])
  section, params = weights.load_part(target)
  fresh = zeros({**section, "logsigma": True})
  start = actions.warm_start({"init_from": str(target)}, None)
  started, converted, drawn = map(
    weights.flatten, (start(fresh), params, fresh)
  )
  assert set(started) == set(drawn) > set(converted)
  for name, value in started.items():
    np.testing.assert_array_equal(value, converted.get(name, drawn[name]))
  with pytest.raises(ValueError, match=r"quantize/codebook.* \(99, "):
    start(zeros({**section, "vocab_size": 99}))


def test_a_run_starts_from_a_converted_prior(official, monkeypatch, tmp_path):
  with np.load(GOLDEN / "ul_transformer.weights.npz") as file:
    state = {k: v.astype(np.float32) for k, v in file.items()}
  monkeypatch.setattr(_torch, "read", lambda path: state)
  target = tmp_path / "prior"
  imported.convert("unleashing", official[0], str(target), ["heads=4"])
  config, params = weights.load_part(target)
  net = plugins.build("nets", "Net", config["net"], "config.net")
  init = functools.partial(init_net, net)
  abstract = jax.eval_shape(init, jax.random.key(0))
  fresh = {"net": jax.tree.map(lambda x: np.zeros(x.shape), abstract)}
  start = actions.warm_start({"init_from": str(target)}, None)
  jax.tree.map(np.testing.assert_array_equal, start(fresh), params)
  assert pipeline.build_prior(config["prior"]).vocab_size == net.vocab_size


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"family": None}, "needs --family"),
    ({"src": None}, "needs --src"),
    ({"dst": ""}, "needs --dst"),
    ({"family": "tamming"}, "Did you mean 'taming'"),
    ({"options": ["size=32"]}, "Choices: image_size, to_small"),
    ({"options": ["image_size"]}, "KEY=VALUE"),
  ],
)
def test_a_wrong_flag_is_refused(official, tmp_path, changes, told):
  flags = {"family": "taming", "src": official[0], "dst": str(tmp_path / "d")}
  with pytest.raises(ValueError, match=told):
    imported.convert(**{**flags, **changes})
  assert not (tmp_path / "d").exists()


def test_what_is_no_part_is_left_to_others(tmp_path):
  assert imported.exported(tmp_path) is None
