"""The report page shows every number and picture that a run left."""

import json
import re
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from vq_jax import report

# Matplotlib's dates and fonts warn of what later Pythons drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DRAWN = ("curves.png", "noise.png")  # By the report itself.
LEFT = [path for path, *_ in report.PICTURES if path not in DRAWN]


EVERY = [name for _, group in report.CURVES for name in group]
EVERY += ["validation/entropy_t10", "validation/entropy_t50"]


def fill(folder, part, names=("train/grad_norm",)):
  """What the modes leave of one run."""
  folder.mkdir(exist_ok=True)
  numbers = {"step": 4, f"{part}_score": 0.123456, "sampler": "a<b"}
  (folder / "metrics.json").write_text(json.dumps(numbers))
  rows = [
    {"step": step, "time": 0.0, **dict.fromkeys(names, float(step))}
    for step in (1, 2, 3, 2, 4)  # Resumed at 2.
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "metrics.jsonl").write_text(lines)
  for path in LEFT:
    (folder / path).parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / path)
  return folder


@pytest.fixture
def root(tmp_path):
  """A tokenizer and a prior."""
  for part in report.PARTS:
    fill(tmp_path / part, part)
  return tmp_path


def shown(page):
  """The pictures of a page, as a browser finds them; nothing else is loaded."""
  text = page.read_text()
  assert not re.search("<script|<link|http|url\\(|@import", text)
  found = re.findall(r"src='([^']+)'", text)
  assert text.count("src=") == len(found)
  return [urllib.parse.unquote(path) for path in found]


def test_the_page_shows_every_picture_and_number(root):
  for part in report.PARTS:
    fill(root / part, part, EVERY)
  page = report.write(root)
  paths = [path for path, *_ in report.PICTURES]
  assert shown(page) == [f"{p}/{path}" for p in report.PARTS for path in paths]
  assert all((root / path).stat().st_size > 0 for path in shown(page))
  text = page.read_text()
  for part in report.PARTS:
    assert f"<td>{part}_score</td><td>0.1235</td>" in text
  assert "a&lt;b" in text and "a<b" not in text
  numbers = json.loads((root / "metrics.json").read_text())
  assert numbers["prior"]["prior_score"] == 0.123456


def test_a_prior_of_another_name_has_the_same_page(root):
  page = report.write(root).read_text()
  (root / "prior").rename(root / "lcmd")
  other = report.write(root, "lcmd").read_text()
  assert other == page.replace("'prior/", "'lcmd/")
  with pytest.raises(FileNotFoundError, match=r"prior has no metrics\.json"):
    report.write(root)


def test_any_run_has_a_page_of_its_own(tmp_path, capsys):
  """Also a point of a sweep, whatever its name, and a run yet unevaluated."""
  run = fill(tmp_path / "sampler.steps=8,x%41#", "prior")
  (run / "config.json").write_text('{"stage": "prior", "net": {"width": 128}}')
  (run / "tokenizer").mkdir()  # Its own copy of that, no run.
  assert report.main(["report", str(run)]) == 0
  page = run / "report.html"
  assert capsys.readouterr().out.strip() == str(page)
  assert shown(page) == [*LEFT, "curves.png"]
  text = page.read_text()
  assert "<td>prior_score</td><td>0.1235</td>" in text
  assert "<td>net.width</td><td>128</td>" in text
  (run / "metrics.json").unlink()
  report.write_run(run)
  assert "<td>train/grad_norm</td><td>4</td>" in page.read_text()


def test_measured_images_have_a_page_without_curves(tmp_path):
  """--mode=evaluate --images leaves a row and pictures, no training."""
  run = fill(tmp_path / "out", "images")
  (run / "metrics.jsonl").unlink()
  assert report.is_run(run)
  assert shown(report.write_run(run)) == LEFT


def test_a_system_is_no_run_even_when_it_has_a_page(root):
  assert not report.is_run(root)
  report.write(root)
  assert not report.is_run(root) and report.is_run(root / "prior")
  assert report.main(["report", str(root)]) == 0


def test_a_page_of_a_run_in_a_page_of_both_needs_its_path(tmp_path):
  folder = fill(tmp_path / "a#b", "prior")
  html = report.figures(tmp_path, folder)
  assert "src='a%23b/samples.png'" in html


def test_only_what_a_run_has_is_drawn(root):
  fill(root / "prior", "prior", EVERY[-2:])
  page = report.write(root).read_text()
  assert "prior/noise.png" in page and "prior/curves.png" not in page
  fill(root / "prior", "prior")
  page = report.write(root).read_text()
  assert "prior/curves.png" in page and "prior/noise.png" not in page


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
