"""README's commands, in order, on the smoke configs."""

import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vq_jax import main
from vq_jax.data import tokens

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
  line
  for block in re.findall(r"```bash\n(.*?)```", README, re.S)
  for line in block.splitlines()
  if line.startswith("python ")
]


def pictures(directory):
  """What a reader would have in PICTURES: two classes, and a broken file."""
  rng = np.random.default_rng(0)
  for i in range(32):
    place = directory / "ab"[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(place / f"{i}.png")
  (directory / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff")


def jobs(command):
  """The line once for each of the jobs that share it."""
  count = re.search(r"processes=(\d+)", command)
  numbers = range(int(count[1]) if count else 1)
  return [command.replace("$JOB", str(job)) for job in numbers]


def run(command, directory):
  """One README line: smoke config, every path under `directory`."""
  command = re.sub(r"(configs/\w+\.py)", r"\1:smoke", command)
  command = command.replace("PICTURES", f"{directory}/pictures")
  family = re.search(r"--workdir=runs/(\w+)/", command)
  command = command.replace("runs/", f"{directory}/")
  words = [sys.executable, *shlex.split(command)[1:]]
  prior = re.search("absorbing|autoregressive|lcmd|text", command)
  if prior and "vq_jax.main" in command:
    place = f"{directory}/{family[1]}/tokenizer/tokens"
    words.append(f"--config.data.path={place}")
  return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_commands_run_in_the_order_they_are_told(tmp_path):
  """The whole path from pictures to numbers, as a reader would type it."""
  modes = []
  pictures(tmp_path / "pictures")
  for command in itertools.chain(*map(jobs, COMMANDS)):
    if "docs/results" in command:
      continue  # Needs the rows of a sweep: see test_sweep.py.
    done = run(command, tmp_path)
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    modes += re.findall(r"--mode=(\w+)", command)
  assert set(modes) == set(main.MODES)
  check_own(tmp_path / "own" / "tokenizer")
  prior = tmp_path / "emoji32" / "prior"
  assert len(list((prior / "samples").glob("*.png"))) == 8
  for name in ("samples.png", "film.png", "pictures/samples.png"):
    with Image.open(prior / name) as picture:
      assert picture.size > (16, 16)
  report = [sys.executable, "-m", "vq_jax.report", str(tmp_path / "emoji32")]
  subprocess.run(report, cwd=ROOT, check=True)
  page = (tmp_path / "emoji32" / "index.html").read_text()
  for name in ("reconstructions.png", "samples.png", "film.png", "curves.png"):
    assert name in page
  # Again: everything is done already, and says so.
  again = run(COMMANDS[0], tmp_path)
  assert again.returncode == 0 and "nothing to do" in again.stdout


def check_own(workdir):
  """The broken file is named; the jobs have written all rows together."""
  told = json.loads((workdir / "statistics.json").read_text())
  assert sum(split["pictures"] for split in told.values()) == 33
  assert [len(split["broken"]) for split in told.values()] in ([0, 1], [1, 0])
  assert (workdir / "statistics" / "train_sheet.png").is_file()
  for split, found in told.items():
    rows = tokens.source(split, path=str(workdir / "tokens"))
    assert len(rows) == found["pictures"]


@pytest.mark.parametrize(
  "path", re.findall(r"\(((?:docs|configs)/[^)]+)\)", README)
)
def test_linked_files_exist(path):
  assert (ROOT / path).exists()


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_scripts_explain_themselves(script):
  done = subprocess.run(
    ["bash", f"launch/{script}", "--help"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert f"bash launch/{script}" in done.stdout


@pytest.mark.slow
def test_quickstart(tmp_path):
  """The whole quickstart and the numbers that README promises."""
  script = ["bash", "launch/quickstart.sh", str(tmp_path / "quickstart")]
  subprocess.run(script, cwd=ROOT, check=True)
  numbers = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
  assert numbers["tokenizer"]["psnr_db"] >= 20
  prior = numbers["prior"]
  assert prior["bits_per_token"] <= 0.75 * prior["unigram_bits_per_token"]
