"""The training loop: what resuming, devices and NaNs may not change."""

import json
import os
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
import toy
from tensorboard.backend.event_processing import event_accumulator

from vq_jax.train import layout, loop
from vq_jax.train.log import Log


def same(one, two):
  """Bitwise equality of two trees."""
  leaves, others = jax.tree.leaves(one), jax.tree.leaves(two)
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(leaves, others, strict=True):
    assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def saved(workdir):
  """The steps of the whole checkpoints."""
  names = [path.name for path in (workdir / "checkpoints").iterdir()]
  return sorted(int(name) for name in names if name.isdigit())


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
  with pytest.raises(FloatingPointError, match=r"step 4 .*step 3, is saved"):
    toy.run(tmp_path / "bad", c)
  assert saved(tmp_path / "bad") == [3]
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
  with pytest.raises(FloatingPointError, match=r"step 1 .*step 0, is saved"):
    toy.run(tmp_path, c)
  c.optimizer.lr = 0.05
  assert toy.run(tmp_path, c).step == 6


def test_a_sigterm_is_obeyed_after_the_update(six, tmp_path, monkeypatch):
  c = toy.get_config()
  c.every.save = 100
  before = signal.getsignal(signal.SIGTERM)

  class Killing(Log):
    def scalars(self, step, values):
      super().scalars(step, values)
      if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(toy, "Log", Killing)
    with pytest.raises(loop.Stopped, match=r"step [34]; the state is saved"):
      toy.run(tmp_path, c)
  assert signal.getsignal(signal.SIGTERM) is before
  assert saved(tmp_path) in ([3], [4])
  same(toy.run(tmp_path, c), six[0])


def test_patience_ends_training_and_a_resumed_run_ends_there(tmp_path, capsys):
  """The error falls, so that of "max" the first evaluation stays the best."""
  c = toy.get_config()
  c.steps, c.every.patience, c.keep.mode = 50, 2, "max"
  state = toy.run(tmp_path / "one", c)
  assert state.step == 6  # Evaluated at 2, 4 and 6.
  told = capsys.readouterr().out
  assert "not improved in 2 evaluations since step 2" in told
  assert saved(tmp_path / "one") == [2, 5, 6]  # The best and the latest two.
  same(toy.run(tmp_path / "one", c), state)
  assert "training ends at step 6" in capsys.readouterr().out

  c.steps = 5  # Interrupted before the last evaluation.
  assert toy.run(tmp_path / "two", c).step == 5
  c.steps = 50
  same(toy.run(tmp_path / "two", c), state)
  c.every.patience = 3
  assert toy.run(tmp_path / "two", c).step == 8
  c.keep.mode, c.steps, c.every.patience = "min", 8, 1
  assert toy.run(tmp_path / "three", c).step == 8  # Always better.


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"every.patience": -1}, r"patience is -1"),
    ({"every.patience": 1, "keep.best": ""}, r"needs config\.keep\.best"),
    (
      {"every.patience": 1, "every.save": 4},
      r"a multiple of config\.every\.save",
    ),
  ],
)
def test_patience_needs_a_best_that_is_kept(tmp_path, change, told):
  c = toy.get_config()
  c.every.patience = 0
  c.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=told):
    toy.run(tmp_path, c)


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
  assert all(0 <= r["data_wait_share"] <= 1 for r in trained.values())
  errors = {r["step"]: r["validation/error"] for r in rows if len(r) == 3}
  assert list(errors) == [2, 4, 6]
  assert errors[6] == pytest.approx(
    np.sum((six[0].ema["w"] - toy.WEIGHTS) ** 2)
  )


def test_window_averages_and_counts():
  window = loop.Window(batch=4)
  for value in (1.0, 2.0, 6.0):
    window.add({"loss": np.float32(value), "rare": np.float32(np.nan)}, 1.0)
  window.begin -= 6.0
  values = window.mean()
  assert values["train/loss"] == 3.0 and "train/rare" not in values
  assert values["data_wait_share"] == pytest.approx(0.5, abs=0.05)
  window.add({"loss": np.float32(5.0)}, 0.0)
  values = window.mean()
  assert values["train/loss"] == 5.0 and values["data_wait_share"] == 0.0


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


def test_a_run_killed_while_saving_goes_on_as_if_nothing_had_been(tmp_path):
  c = toy.get_config()
  c.steps = 300
  with open(tmp_path / "log", "w") as log:
    process = subprocess.Popen(
      toy.command(tmp_path / "killed", "--config.steps=300"),
      stdout=log,
      stderr=log,
    )
  folder = tmp_path / "killed" / "checkpoints"
  deadline = time.monotonic() + 120
  while process.poll() is None and time.monotonic() < deadline:
    names = os.listdir(folder) if folder.is_dir() else []
    saving = [name for name in names if not name.isdigit()]
    if saving and "5" in names:
      break
  process.kill()
  assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
  json.loads((tmp_path / "killed" / "config.json").read_text())
  last = saved(tmp_path / "killed")[-1]
  assert 5 <= last < 300

  c.steps = last + 4
  resumed = toy.run(tmp_path / "killed", c)
  c.every.save = c.every.evaluate = 1000
  whole = toy.run(tmp_path / "whole", c)
  same(resumed, whole)


def test_a_sigterm_ends_the_command_with_143_and_it_can_be_repeated(tmp_path):
  flags = [f"--config.{k}=1000000" for k in ("steps", "every.save")]
  process = subprocess.Popen(
    toy.command(tmp_path, *flags), stderr=subprocess.PIPE, text=True
  )
  rows = tmp_path / "metrics.jsonl"
  while process.poll() is None and not (rows.exists() and rows.read_text()):
    time.sleep(0.05)
  process.terminate()
  _, told = process.communicate(timeout=60)
  assert process.returncode == 143, told
  assert "the state is saved. Run the same command to go on." in told
  assert "Traceback" not in told
  (last,) = saved(tmp_path)
  c = toy.get_config()
  c.steps, c.every = last + 1, dict(log=50, evaluate=10**6, save=10**6)
  same(toy.run(tmp_path, c), toy.run(tmp_path / "unbroken", c))
