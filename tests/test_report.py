"""The report page shows every number and picture that a run left."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from vq_jax import report

# Matplotlib's dates and fonts warn of what later Pythons drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def root(tmp_path):
  """What the modes leave of a tokenizer and a prior."""
  for part, curves in report.CURVES.items():
    folder = tmp_path / part
    folder.mkdir()
    numbers = {"step": 4, f"{part}_score": 0.123456, "sampler": "a<b"}
    (folder / "metrics.json").write_text(json.dumps(numbers))
    names = [name for _, group in curves for name in group]
    names += ["validation/entropy_t10", "validation/entropy_t50"]
    rows = [
      {"step": step, "time": 0.0, **dict.fromkeys(names, float(step))}
      for step in (1, 2, 3, 2, 4)  # Resumed at 2.
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
  for path, *_ in report.PICTURES:
    if "/" in path:
      (tmp_path / path).parent.mkdir(exist_ok=True)
      Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / path)
  return tmp_path


def test_the_page_shows_every_picture_and_number(root):
  page = report.write(root).read_text()
  shown = re.findall(r"<img src='([^']+)'", page)
  assert shown == [path for path, *_ in report.PICTURES]
  assert all((root / path).stat().st_size > 0 for path in shown)
  for part in report.PARTS:
    assert f"<td>{part}_score</td><td>0.1235</td>" in page
  assert "a&lt;b" in page and "a<b" not in page
  numbers = json.loads((root / "metrics.json").read_text())
  assert numbers["prior"]["prior_score"] == 0.123456


def test_a_prior_of_another_name_has_the_same_page(root):
  page = report.write(root).read_text()
  (root / "prior").rename(root / "lcmd")
  other = report.write(root, "lcmd").read_text()
  assert other == page.replace("'prior/", "'lcmd/")
  with pytest.raises(FileNotFoundError, match=r"prior has no metrics\.json"):
    report.write(root)


def test_only_what_a_run_has_is_drawn(root):
  assert "prior-noise.png" in report.write(root).read_text()
  file = root / "prior" / "metrics.jsonl"
  file.write_text('{"step": 1, "train/grad_norm": 0.5}\n')
  page = report.write(root).read_text()
  assert "prior-curves.png" in page and "prior-noise.png" not in page


def test_a_step_that_ran_twice_counts_once(root):
  series = report.read_rows(root / "prior" / "metrics.jsonl")
  assert series["train/grad_norm"] == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}


@pytest.mark.parametrize("part", report.PARTS)
@pytest.mark.parametrize("name", ["metrics.json", "metrics.jsonl"])
def test_what_is_missing_is_said(root, part, name, capsys):
  (root / part / name).unlink()
  assert report.main(["report", str(root)]) == 1
  told = capsys.readouterr().err
  assert told.count("\n") == 1
  assert f"{part} has no {name}: train and evaluate it first." in told
  assert not (root / "index.html").exists()


def test_a_directory_is_needed(capsys):
  assert report.main(["report"]) == 1
  assert "DIRECTORY" in capsys.readouterr().err
