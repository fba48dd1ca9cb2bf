"""README's commands, in order, on the smoke configs."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
  line
  for block in re.findall(r"```bash\n(.*?)```", README, re.S)
  for line in block.splitlines()
  if line.startswith("python ")
]


def run(command, directory):
  """One README line: smoke config, every path under `directory`."""
  command = re.sub(r"(configs/\w+\.py)", r"\1:smoke", command)
  family = re.search(r"--workdir=runs/(\w+)/", command)
  command = command.replace("runs/", f"{directory}/")
  words = [sys.executable, *shlex.split(command)[1:]]
  prior = re.search("absorbing|autoregressive|lcmd|text", command)
  if prior and "vq_jax.main" in command:
    tokens = f"{directory}/{family[1]}/tokenizer/tokens"
    words.append(f"--config.data.path={tokens}")
  return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_commands_run_in_the_order_they_are_told(tmp_path):
  """The whole path from pictures to numbers, as a reader would type it."""
  modes = []
  for command in COMMANDS:
    if "docs/results" in command:
      continue  # Needs the rows of a sweep: see test_sweep.py.
    done = run(command, tmp_path)
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    modes += re.findall(r"--mode=(\w+)", command)
  assert set(modes) >= {"train", "tokenize", "sample", "evaluate"}
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
  import json

  script = ["bash", "launch/quickstart.sh", str(tmp_path / "quickstart")]
  subprocess.run(script, cwd=ROOT, check=True)
  numbers = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
  assert numbers["tokenizer"]["psnr_db"] >= 20
  prior = numbers["prior"]
  assert prior["bits_per_token"] <= 0.75 * prior["unigram_bits_per_token"]
