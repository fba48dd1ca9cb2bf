"""Checkpoints: whole or not at all, of this config or refused."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from vq_jax.train import checkpoint, layout
from vq_jax.train.task import new_state

CONFIG = {"stage": "toy", "prior": {"name": "absorbing", "vocab_size": 4}}


def make_state(value: float, width: int = 3):
  params = {"net": {"w": jnp.full(width, value), "scale": jnp.float32(value)}}
  return new_state(params, optax.adam(0.1).init(params))


def abstract(state):
  return jax.eval_shape(lambda: state)


def places(tree):
  return layout.layout(tree, toy.one_device())


def steps(workdir) -> list[int]:
  names = [path.name for path in (workdir / "checkpoints").iterdir()]
  return sorted(int(name) for name in names if name.isdigit())


@pytest.fixture
def saved(tmp_path):
  """Three checkpoints: values 1, 2, 3 with errors 0.5, 0.1, 0.9."""
  store = checkpoint.Store(tmp_path, CONFIG, latest=1, best="error")
  for step, error in ((1, 0.5), (2, 0.1), (3, 0.9)):
    store.save(step, make_state(float(step)), {"error": error, "other": 0.0})
  store.close()
  return tmp_path


def open_store(workdir, **options):
  return checkpoint.Store(workdir, CONFIG, **{"best": "error", **options})


def best(workdir, **options):
  """(step, value) of the averaged weights that sampling would use."""
  store = open_store(workdir, **options)
  tree = abstract(make_state(0.0)).ema
  step, params = store.weights(tree, places(tree))
  store.close()
  return step, float(params["net"]["scale"])


def test_the_newest_is_resumed_and_the_best_is_used(saved):
  assert steps(saved) == [2, 3]
  store = open_store(saved)
  tree = abstract(make_state(0.0))
  state = store.restore(tree, places(tree))
  store.close()
  for one, two in zip(
    jax.tree.leaves(state), jax.tree.leaves(make_state(3.0)), strict=True
  ):
    np.testing.assert_array_equal(one, two)
  assert best(saved) == (2, 2.0)


def test_a_checkpoint_tells_the_position_in_the_data(saved):
  """The step is all that the order of examples has to know."""
  meta = json.loads((saved / "checkpoints/3/meta/metadata").read_text())
  assert meta == {"config": CONFIG, "next_batch": 3}


def test_the_greatest_is_best_where_more_is_better(tmp_path):
  options = dict(latest=1, best="error", mode="max")
  store = checkpoint.Store(tmp_path, CONFIG, **options)
  for step, value in ((1, 0.5), (2, 0.9), (3, 0.1)):
    store.save(step, make_state(float(step)), {"error": value})
  store.close()
  assert steps(tmp_path) == [2, 3]
  assert best(tmp_path, mode="max") == (2, 2.0)


def test_only_the_newest_are_kept_without_a_best(tmp_path):
  store = checkpoint.Store(tmp_path, CONFIG, latest=2)
  for step in (1, 2, 3, 4):
    store.save(step, make_state(float(step)), {"error": float(step)})
  store.close()
  assert steps(tmp_path) == [3, 4]
  assert best(tmp_path, best="") == (4, 4.0)


def test_a_run_stopped_before_its_first_evaluation_has_weights(tmp_path):
  store = open_store(tmp_path)
  store.save(5, make_state(5.0))
  store.close()
  assert best(tmp_path) == (5, 5.0)


def test_saving_the_same_step_again_changes_nothing(saved):
  store = open_store(saved)
  store.save(3, make_state(7.0))
  store.close()
  assert best(saved, best="") == (3, 3.0)


def test_a_misspelt_best_lists_the_metrics(tmp_path):
  store = open_store(tmp_path, best="eror")
  with pytest.raises(ValueError, match=r"keep\.best.*'eror'.*'error'"):
    store.save(1, make_state(1.0), {"error": 0.0})
  store.close()
  with pytest.raises(ValueError, match=r"keep\.mode.*'least'"):
    open_store(tmp_path, mode="least")


def test_a_foreign_checkpoint_names_the_tensor(saved):
  store = open_store(saved)
  wide = abstract(make_state(0.0, width=4))
  with pytest.raises(ValueError, match=r"ema/net/w.*\(3,\).*\(4,\)"):
    store.weights(wide.ema, places(wide.ema))
  with pytest.raises(ValueError, match=r"/w'.*\(3,\).*\(4,\)"):
    store.restore(wide, places(wide))
  more = {"net": wide.ema["net"], "head": wide.ema["net"]["w"]}
  with pytest.raises(ValueError, match="lacks the tensor 'ema/head'"):
    store.weights(more, places(more))
  less = {"net": {"scale": wide.ema["net"]["scale"]}}
  with pytest.raises(ValueError, match="has a tensor 'ema/net/w'"):
    store.weights(less, places(less))
  store.close()


def test_no_checkpoint_is_said(tmp_path):
  with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
    best(tmp_path)


def test_a_checkpoint_moves_between_meshes(saved):
  tree = abstract(make_state(0.0))
  where = layout.layout(tree, layout.make_mesh())
  store = open_store(saved)
  state = store.restore(tree, where)
  store.close()
  assert len(state.params["net"]["w"].sharding.device_set) == 8
  np.testing.assert_array_equal(state.params["net"]["w"], np.full(3, 3.0))


def test_a_full_disk_leaves_earlier_checkpoints_alone(saved, monkeypatch):
  usage = shutil.disk_usage(saved)._replace(free=10)
  store = open_store(saved)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="No space left on disk") as error:
      store.save(4, make_state(4.0), {"error": 0.0})
  assert error.value.errno == errno.ENOSPC
  assert steps(saved) == [2, 3]
  store.save(4, make_state(4.0), {"error": 0.0})
  store.close()
  assert best(saved) == (4, 4.0)


def test_claiming_twice_with_the_same_config_is_fine(tmp_path):
  checkpoint.claim(tmp_path / "run", CONFIG)
  checkpoint.claim(tmp_path / "run", CONFIG)
  assert checkpoint.read_config(tmp_path / "run") == CONFIG


def test_another_config_is_refused_by_its_first_different_key(tmp_path):
  checkpoint.claim(tmp_path, CONFIG)
  other = {**CONFIG, "prior": {**CONFIG["prior"], "vocab_size": 8}}
  with pytest.raises(ValueError, match=r"config\.prior\.vocab_size = 4, not 8"):
    checkpoint.claim(tmp_path, other)
  more = {**CONFIG, "flip": True}
  with pytest.raises(ValueError, match=r"config\.flip = 'nothing', not True"):
    checkpoint.claim(tmp_path, more)
  assert checkpoint.read_config(tmp_path) == CONFIG


def test_what_may_change_between_runs_may_change(tmp_path):
  config = {**CONFIG, "data": {"name": "tokens", "path": "here"}}
  checkpoint.claim(tmp_path, config)
  free = {name: {"anything": 1} for name in checkpoint.FREE if "." not in name}
  moved = {**config, **free, "data": {"name": "tokens", "path": "there"}}
  checkpoint.claim(tmp_path, moved)
  assert checkpoint.read_config(tmp_path) == moved
  with pytest.raises(ValueError, match=r"config\.data\.name"):
    checkpoint.claim(tmp_path, {**moved, "data": {"name": "else"}})


def test_a_full_disk_does_not_cost_the_run_its_config(tmp_path, monkeypatch):
  checkpoint.claim(tmp_path, CONFIG)
  os.symlink("/dev/full", tmp_path / "config.json.part")
  with pytest.raises(OSError, match="No space left"):
    checkpoint.claim(tmp_path, {**CONFIG, "steps": 5})
  assert checkpoint.read_config(tmp_path) == CONFIG


def test_a_damaged_config_is_named(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is damaged"):
    checkpoint.read_config(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"no config\.json"):
    checkpoint.read_config(tmp_path / "elsewhere")
