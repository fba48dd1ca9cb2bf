"""Exported weights: exact, whole, and every tensor accounted for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import weights


def tree():
  return {
    "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T},
    "scale": np.float32(2.5),
    "half": jnp.ones(2, jnp.bfloat16),
  }


def test_weights_round_trip(tmp_path):
  weights.save(tmp_path / "w.safetensors", tree(), "note")
  loaded, note = weights.load(tmp_path / "w.safetensors")
  assert note == "note" and list(tmp_path.iterdir()) == [
    tmp_path / "w.safetensors"
  ]
  assert jax.tree.structure(loaded) == jax.tree.structure(tree())
  for one, two in zip(
    jax.tree.leaves(loaded), jax.tree.leaves(tree()), strict=True
  ):
    assert one.dtype == two.dtype and one.shape == two.shape
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("keep", [0, 4, 40, 150])
def test_truncated_weights_are_refused(tmp_path, keep):
  path = tmp_path / "w.safetensors"
  weights.save(path, tree())
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match=r"not a whole safetensors file"):
    weights.load(path)


def test_missing_files_and_tensors_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="no weights file"):
    weights.load(tmp_path / "none")
  with pytest.raises(FileNotFoundError, match="no exported part"):
    weights.load_part(tmp_path)
  weights.save_part(tmp_path, {"name": "x"}, tree())
  section, loaded = weights.load_part(tmp_path)
  assert section == {"name": "x"} and set(loaded) == set(tree())
  flat = weights.flatten(tree())
  assert set(flat) == {"a/kernel", "scale", "half"}
  assert weights.unflatten(flat).keys() == tree().keys()
  short = {k: v for k, v in flat.items() if k != "a/kernel"}
  with pytest.raises(
    ValueError, match=r"the file .*lacks the tensor 'a/kernel'"
  ):
    weights.check(short, flat, "the file")
  with pytest.raises(ValueError, match="has a tensor 'a/kernel'"):
    weights.check(flat, short, "the file")
