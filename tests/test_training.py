"""The training loop: what resuming, devices and NaNs may not change."""

import json
import os
import signal
import threading

import jax
import numpy as np
import pytest
import toy
from tensorboard.backend.event_processing import event_accumulator

from vq_jax.train import checkpoint, layout, loop


def same(one, two):
  """Bitwise equality of two trees."""
  leaves, others = jax.tree.leaves(one), jax.tree.leaves(two)
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(leaves, others, strict=True):
    assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def six(tmp_path_factory):
  """The state after six updates in one go, and its directory."""
  workdir = tmp_path_factory.mktemp("six")
  return toy.run(workdir, toy.get_config()), workdir


def test_three_and_three_steps_are_six_bitwise(six, tmp_path):
  c = toy.get_config()
  c.steps = 3
  half = toy.run(tmp_path, c)
  assert half.step == 3 and half.extra != six[0].extra
  c.steps = 6
  same(toy.run(tmp_path, c), six[0])


def test_data_and_noise_are_of_the_seed(six, tmp_path):
  c = toy.get_config()
  c.seed = 1
  other = toy.run(tmp_path, c)
  assert other.extra != six[0].extra
  assert (other.params["w"] != six[0].params["w"]).all()


def test_a_finished_run_is_restored_not_trained(six):
  same(toy.run(six[1], toy.get_config()), six[0])


def test_eight_devices_see_what_one_sees(six, tmp_path):
  state = toy.run(tmp_path, toy.get_config(), layout.make_mesh())
  assert state.extra == six[0].extra
  np.testing.assert_allclose(state.params["w"], six[0].params["w"], atol=1e-6)


def test_training_stops_before_a_nan_and_resumes_with_another_lr(tmp_path):
  c = toy.get_config()
  c.data.poison, c.optimizer.lr = 4, 0.2
  c.every = dict(log=3, evaluate=6, save=6)
  with pytest.raises(FloatingPointError, match="step 4 .*step 3, is saved"):
    toy.run(tmp_path / "bad", c)
  store = checkpoint.Store(tmp_path / "bad", {})
  assert store.latest() == 3
  store.close()
  c.steps, c.data.poison = 3, 0
  good = toy.run(tmp_path / "good", c)

  # The very state after step 3, and only the learning rate is new.
  c.steps, c.optimizer.lr, c.data.poison = 3, 0.05, 4
  same(toy.run(tmp_path / "bad", c), good)
  c.steps = 6
  state = toy.run(tmp_path / "bad", c)
  assert state.step == 6 and state.ok
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_nan_at_the_first_update_keeps_the_initial_state(tmp_path):
  c = toy.get_config()
  c.data.poison, c.optimizer.lr = 1, 0.2
  with pytest.raises(FloatingPointError, match="step 1 .*step 0, is saved"):
    toy.run(tmp_path, c)
  c.optimizer.lr = 0.05
  assert toy.run(tmp_path, c).step == 6


def test_a_sigterm_is_obeyed_after_the_update(tmp_path):
  c = toy.get_config()
  c.steps, c.every.save = 10**6, 10**6
  timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM))
  before = signal.getsignal(signal.SIGTERM)
  timer.start()
  with pytest.raises(loop.Stopped, match="the state is saved"):
    toy.run(tmp_path, c)
  timer.join()
  assert signal.getsignal(signal.SIGTERM) is before
  store = checkpoint.Store(tmp_path, {})
  c.steps = store.latest() + 1
  store.close()
  assert toy.run(tmp_path, c).step == c.steps


@pytest.mark.parametrize("name", ["log", "evaluate", "save"])
def test_every_is_at_least_one(tmp_path, name):
  c = toy.get_config()
  c.every[name] = 0
  with pytest.raises(ValueError, match=rf"config\.every\.{name} is 0"):
    toy.run(tmp_path, c)


@pytest.mark.parametrize("batch", [0, -8, 12])
def test_a_batch_is_positive_and_divides(tmp_path, batch):
  c = toy.get_config()
  c.batch = batch
  with pytest.raises(ValueError, match=rf"config\.batch is {batch}.*8"):
    toy.run(tmp_path, c, layout.make_mesh())


def test_metrics_jsonl_has_one_row_a_log_and_the_true_means(six):
  lines = (six[1] / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  trained = {r["step"]: r for r in rows if "train/loss" in r}
  assert list(trained) == [1, 2, 3, 4, 5, 6]
  assert all(r["images_per_second"] > 0 for r in trained.values())
  errors = {r["step"]: r["validation/error"] for r in rows if len(r) == 3}
  assert list(errors) == [2, 4, 6]
  assert errors[6] == pytest.approx(
    np.sum((six[0].ema["w"] - toy.WEIGHTS) ** 2)
  )


def test_window_averages_and_counts():
  window = loop.Window(batch=4)
  for value in (1.0, 2.0, 6.0):
    window.add({"loss": np.float32(value), "rare": np.float32(np.nan)})
  values = window.mean()
  assert values["train/loss"] == 3.0 and "train/rare" not in values
  window.add({"loss": np.float32(5.0)})
  assert window.mean()["train/loss"] == 5.0


def test_tensorboard_reads_the_same_numbers(six):
  events = event_accumulator.EventAccumulator(str(six[1] / "events"))
  events.Reload()
  lines = (six[1] / "metrics.jsonl").read_text().splitlines()
  rows = [r for r in map(json.loads, lines) if "train/loss" in r]
  read = events.Scalars("train/loss")
  assert [e.step for e in read] == [r["step"] for r in rows]
  np.testing.assert_allclose(
    [e.value for e in read], [r["train/loss"] for r in rows], rtol=1e-6
  )
  assert [e.step for e in events.Images("square")] == [2, 4, 6]
