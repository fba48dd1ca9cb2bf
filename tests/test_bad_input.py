"""What a user gets wrong is one sentence on stderr and a non-zero exit."""

import os
import pathlib
import sys

import pytest
import toy
from absl import flags

from vq_jax import main
from vq_jax.train import actions

# ml_collections reads config files in a way that Python is giving up.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)
CONFIG = f"--config={toy.__file__}"
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


@pytest.fixture
def command(monkeypatch, capsys):
  """Runs a command line in this process -> (exit code, stdout, stderr)."""
  known = set(flags.FLAGS)

  def run(*words) -> tuple[int, str, str]:
    argv = ["vq_jax", *map(str, words)]
    monkeypatch.setattr(sys, "argv", argv)  # Where overrides are looked for.
    code = 0
    try:
      main.main(main.parse_flags(argv))
    except SystemExit as stop:
      code = stop.code
    for name in set(flags.FLAGS) - known:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    return code, *capsys.readouterr()

  return run


@pytest.fixture
def toys(monkeypatch):
  monkeypatch.setattr(actions, "stage", lambda config: toy)


@pytest.fixture
def refused(command):
  """The one sentence that a command line is refused with."""

  def run(*words) -> str:
    code, _, err = command(*words)
    told = [line for line in err.splitlines() if line.strip()]
    told = [line for line in told if not line.startswith("train:")]
    assert code == 1 and len(told) == 1, err
    assert told[0].startswith("error: ") and "\\" not in told[0]
    return told[0]

  return run


@pytest.mark.parametrize(
  ("words", "sentence"),
  [
    ("--workdir=W --config.sed=1", 'Did you mean "seed"'),
    ("--workdir=W --config.ema.decai=1", 'Did you mean "decay"'),
    ("--workdir=W --config.batch=12", "config.batch is 12"),
    ("--workdir=W --config.batch=0", "config.batch is 0"),
    ("--workdir=W --config.mesh.data=3", "there are 8 devices"),
    ("--workdir=W --config.every.log=0", "config.every.log is 0"),
    ("--workdir=W --config.keep.mode=least", "'min' or 'max'"),
    ("--workdir=W --config.keep.best=validation/eror", "'validation/error'"),
    ("--workdir=W --config.optimizer.decay=linear", "constant, cosine"),
    ("--workdir=W --mode=evaluate", "holds no run"),
    ("--workdir=W --mode=sample", "drawn from a prior"),
    ("--workdir=W --mode=edit", "edited by a prior"),
    ("--workdir=W --mode=tokenize", "of a tokenizer"),
    ("--workdir=W train", "'train' was not understood"),
    ("--workdir=/proc/no", "/proc/no"),
    ("", "--workdir=DIRECTORY"),
    ("--mode=convert", "--mode=convert needs --family"),
  ],
)
def test_a_mistake_is_one_sentence(toys, refused, tmp_path, words, sentence):
  words = words.replace("W", str(tmp_path / "run")).split()
  assert sentence in refused(CONFIG, *words)


@pytest.mark.parametrize(
  ("words", "hint"),
  [
    ("--mode=trian", "train|tokenize|sample|edit|evaluate"),
    ("--wrokdir=x", "Did you mean: workdir"),
    ("--config.steps=many", "config.steps=many"),
  ],
)
def test_a_wrong_flag_is_told_by_the_flag_library(command, words, hint):
  code, _, err = command(CONFIG, "--workdir=W", words)
  assert code == 1 and hint in err and "Traceback" not in err


def test_a_missing_config_file_is_named(refused, tmp_path):
  told = refused("--config=no/where.py", f"--workdir={tmp_path}")
  assert "no/where.py" in told
  assert "holds no run" in refused(f"--workdir={tmp_path}")


def test_a_workdir_of_another_config_is_refused(
  toys, command, refused, tmp_path
):
  workdir = f"--workdir={tmp_path}"
  assert command(CONFIG, workdir, "--config.steps=1")[0] == 0
  told = refused(CONFIG, workdir, "--config.seed=3")
  assert "config.seed = 0, not 3" in told
  assert "config.seed = 0, not 3" in refused(
    CONFIG, workdir, "--config.seed=3", "--mode=evaluate"
  )
  code, out, _ = command(workdir, "--mode=train")  # Its own config.
  assert code == 0 and "is trained to step 1; nothing to do" in out


def test_a_run_without_a_checkpoint_is_not_evaluated(toys, refused, tmp_path):
  workdir = f"--workdir={tmp_path}"
  refused(CONFIG, workdir, "--config.every.log=0")
  assert "has no checkpoint yet" in refused(workdir, "--mode=evaluate")


def test_sampling_an_untrained_prior_is_refused(refused, tmp_path):
  config = f"--config={CONFIGS / 'emoji32_absorbing.py'}:smoke"
  workdir = f"--workdir={tmp_path}"
  assert "holds no run" in refused(config, workdir, "--mode=sample")
  told = refused(config, workdir, f"--config.data.path={tmp_path}")
  assert "holds no finished token set" in told


def test_an_unknown_stage_lists_the_choices(refused, tmp_path):
  words = (CONFIG, f"--workdir={tmp_path}")
  assert "'toy'" in refused(*words)
  assert "'loop'" in refused(*words, "--config.stage=loop")


def test_a_full_disk_is_told_and_costs_nothing(
  toys, command, refused, tmp_path
):
  words = (CONFIG, f"--workdir={tmp_path}")
  assert command(*words, "--config.steps=3")[0] == 0
  rows = tmp_path / "metrics.jsonl"
  before = rows.read_bytes()
  rows.rename(tmp_path / "rows")
  os.symlink("/dev/full", rows)
  told = refused(*words)
  assert told == f"error: No space left on device: {rows}."
  rows.unlink()
  (tmp_path / "rows").rename(rows)
  # Half a row, as a disk that was not yet quite full leaves it.
  rows.write_bytes(before + b'{"step": 4, "ti')
  assert command(*words)[0] == 0
  assert rows.read_bytes().startswith(before + b'{"step": 4, "time"')


def test_a_dry_run_shows_the_run_and_writes_nothing(toys, command, tmp_path):
  workdir = tmp_path / "run"
  code, out, _ = command(CONFIG, f"--workdir={workdir}", "--dry_run")
  assert code == 0 and not workdir.exists()
  assert "'data': 8" in out and "8 devices" in out
  assert '"poison": 0' in out
  rows = [line.split("|") for line in out.splitlines() if "float32" in line]
  table = {row[1].strip(): [cell.strip() for cell in row[2:]] for row in rows}
  assert table["w"][0] == "(3,)" and table["b"][0] == "()"


def test_traceback_is_for_those_who_ask(toys, command, tmp_path):
  words = (CONFIG, f"--workdir={tmp_path}", "--config.batch=12")
  with pytest.raises(ValueError, match=r"config\.batch is 12"):
    command(*words, "--traceback")
