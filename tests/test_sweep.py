"""Sweeps and their tables, with a command that only writes metrics.json."""

import importlib.util
import json
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vq_jax import pictures

ROOT = pathlib.Path(__file__).parents[1]


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


sweep = load(ROOT / "launch" / "sweep.py")
tables = load(ROOT / "docs" / "results" / "tables.py")

CONFIG = """
def sweep(add):
  for steps in (16, 4, 8):
    add({"sampler.steps": steps, "prior.name": "lcmd"})
"""

# fd = 100 / steps; steps=4 fails while the file `broken` is there; each call
# leaves a line in `calls`.
MAIN = """
import json, pathlib, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[1:])
steps = int(options["config.sampler.steps"])
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as file:
  print(*sys.argv[1:], file=file)
if steps == 4 and (here / "broken").exists():
  sys.exit(3)
workdir = pathlib.Path(options["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
(workdir / "metrics.json").write_text(json.dumps({"fd": 100 / steps}))
"""


@pytest.fixture
def place(tmp_path):
  (tmp_path / "config.py").write_text(CONFIG)
  (tmp_path / "fake.py").write_text(MAIN)
  return tmp_path


def words(place, *more, config="config.py", mode="evaluate"):
  return [
    f"--config={place / config}",
    "--name=quality",
    f"--mode={mode}",
    f"--results={place / 'results'}",
    f"--workdirs={place / 'runs'}",
    f"--command={shlex.join([sys.executable, str(place / 'fake.py')])}",
    *more,
  ]


def rows_of(place):
  paths = (place / "results" / "quality").glob("*")
  return {path.name: json.loads(path.read_text()) for path in paths}


def calls(place):
  return (place / "calls").read_text().splitlines()


def test_one_row_a_point(place):
  """Each row says what was run, what came out, how long and of which code."""
  assert sweep.main(words(place, "--run")) == 0
  rows = rows_of(place)
  assert set(rows) == {
    f"prior.name=lcmd,sampler.steps={steps}.json" for steps in (4, 8, 16)
  }
  row = rows["prior.name=lcmd,sampler.steps=8.json"]
  assert row["overrides"] == {"sampler.steps": 8, "prior.name": "lcmd"}
  assert row["metrics"] == {"fd": 12.5}
  assert row["mode"] == "evaluate" and row["seconds"] > 0 and row["revision"]
  assert (place / "runs" / row["point"] / "metrics.json").is_file()


def test_without_run_the_commands_are_printed(place, capfd):
  """And what is printed is what --run runs."""
  assert sweep.main(words(place, "--", "--config.seed=3")) == 0
  printed = capfd.readouterr().out.splitlines()
  assert rows_of(place) == {} and not (place / "calls").exists()
  assert sweep.main(words(place, "--run", "--", "--config.seed=3")) == 0
  prefix = 2  # The interpreter and the program.
  assert [shlex.split(line)[prefix:] for line in printed] == [
    line.split() for line in calls(place)
  ]
  assert all("--config.seed=3" in line for line in printed)


def test_a_failing_point_does_not_stop_the_others(place, capfd):
  """Exit code 1, a report, no row; the next run does that point alone."""
  (place / "broken").touch()
  assert sweep.main(words(place, "--run")) == 1
  assert "FAILED prior.name=lcmd,sampler.steps=4: exit code 3" in (
    capfd.readouterr().err
  )
  assert len(rows_of(place)) == 2 and len(calls(place)) == 3
  (place / "broken").unlink()
  assert sweep.main(words(place, "--run")) == 0
  assert len(rows_of(place)) == 3 and len(calls(place)) == 4
  assert sweep.main(words(place, "--run")) == 0
  assert len(calls(place)) == 4


def test_an_array_job_runs_one_point(place):
  assert sweep.main(words(place, "--run", "--point=1")) == 0
  assert list(rows_of(place)) == ["prior.name=lcmd,sampler.steps=4.json"]
  with pytest.raises(ValueError, match="0 to 2"):
    sweep.main(words(place, "--run", "--point=3"))


def test_labels_tell_rows_of_one_name_apart(place):
  """They are columns, and no part of the command."""
  for name in ("one", "two"):
    assert sweep.main([*words(place), "--run", f"--label=system={name}"]) == 0
  found = [row["overrides"]["system"] for row in rows_of(place).values()]
  assert sorted(found) == ["one"] * 3 + ["two"] * 3
  assert not any("--config.system" in call for call in calls(place))


def test_a_row_of_another_command_is_no_row_of_this_one(place, capfd):
  """The same name for another mode is a failure and overwrites nothing."""
  assert sweep.main(words(place, "--run", "--point=0")) == 0
  before = rows_of(place)
  assert sweep.main(words(place, "--run", "--point=0", mode="train")) == 1
  assert "of mode 'evaluate' and not 'train'" in capfd.readouterr().err
  assert rows_of(place) == before


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"fd": [1]}'])
def test_metrics_must_be_left_and_flat(place, content, capfd):
  """What an earlier run left does not count."""
  stale = place / "runs" / "prior.name=lcmd,sampler.steps=16" / "metrics.json"
  stale.parent.mkdir(parents=True)
  stale.write_text('{"fd": 1}')
  body = "" if content is None else f"path.write_text({content!r})"
  (place / "fake.py").write_text(
    f"import pathlib\npath = pathlib.Path({str(stale)!r})\n{body}"
  )
  assert sweep.main(words(place, "--run", "--point=0")) == 1
  assert "metrics.json" in capfd.readouterr().err
  assert rows_of(place) == {}


def test_modes_run_one_after_another(place):
  """--mode=train,evaluate: both on every point, in the point's workdir."""
  assert sweep.main(words(place, "--run", mode="train,evaluate")) == 0
  modes = [line.split()[0].removeprefix("--mode=") for line in calls(place)]
  assert modes == ["train", "evaluate"] * (len(modes) // 2)
  assert len(rows_of(place)) == len(modes) // 2


def test_every_point_sees_the_trained_run(place):
  """--base links weights and config into each point, and copies nothing."""
  base = place / "base"
  (base / "checkpoints").mkdir(parents=True)
  (base / "config.json").write_text("{}")
  (base / "metrics.json").write_text('{"fd": 0}')
  assert sweep.main(words(place, "--run", f"--base={base}")) == 0
  for name in rows_of(place):
    point = place / "runs" / name.removesuffix(".json")
    assert (point / "config.json").resolve() == base / "config.json"
    assert (point / "checkpoints").is_symlink()
    assert not (point / "metrics.json").is_symlink()


def test_names_are_readable_stable_and_safe():
  assert sweep.point_name({"sampler.steps": 8}) == "sampler.steps=8"
  one = sweep.point_name({"b": 1e-4, "a": True})
  assert one == sweep.point_name({"a": True, "b": 1e-4}) == "a=True,b=0.0001"
  assert sweep.point_name({"path": "/data/x y"}) == "path=-data-x-y"
  assert sweep.point_name({}) == "base"


def test_points_come_from_the_config_file(place):
  path = place / "config.py"
  points = sweep.load_points(f"{path}:smoke")
  assert [point["sampler.steps"] for point in points] == [16, 4, 8]
  path.write_text('def sweep(add):\n  add({"a": 1})\n  add({"a": "1"})')
  with pytest.raises(ValueError, match="share a name: a=1"):
    sweep.load_points(str(path))
  path.write_text("")
  with pytest.raises(ValueError, match="no sweep"):
    sweep.load_points(str(path))
  with pytest.raises(ValueError, match="no Python file"):
    sweep.load_points(str(place / "nowhere.py"))


def test_the_script_runs_by_itself(place):
  """As a user calls it: the default command is the main program."""
  script = [sys.executable, ROOT / "launch" / "sweep.py"]
  options = [word for word in words(place) if "--command" not in word]
  done = subprocess.run(
    [*script, *options], capture_output=True, text=True, check=True
  )
  lines = done.stdout.splitlines()
  assert len(lines) == 3 and all("-m vq_jax.main --mode=" in x for x in lines)


@pytest.fixture
def rows(place):
  """Rows as the sweep leaves them."""
  assert sweep.main(words(place, "--run")) == 0
  return tables.load_rows(place / "results" / "quality")


def test_a_table_has_a_line_a_row_in_numerical_order(rows):
  rows, columns = rows
  assert columns == ["sampler.steps", "prior.name", "fd", "seconds", "changes"]
  assert rows[0]["changes"] == "steps = 4, name = lcmd"
  assert tables.markdown(rows, ["sampler.steps", "prior.name", "fd"]) == (
    "| sampler.steps | prior.name | fd |\n"
    "| ---: | --- | ---: |\n"
    "| 4 | lcmd | 25 |\n"
    "| 8 | lcmd | 12.5 |\n"
    "| 16 | lcmd | 6.25 |"
  )


def test_rows_can_be_ordered_by_a_number(place, rows, capsys):
  argv = ["quality", f"--results={place / 'results'}"]
  capsys.readouterr()
  tables.main([*argv, "--columns=sampler.steps,fd", "--sort=fd"])
  lines = capsys.readouterr().out.splitlines()[2:]
  assert [line.split()[1] for line in lines] == ["16", "8", "4"]


def test_missing_values_stay_empty():
  table = tables.markdown([{"a": 1}, {"a": 0.123456, "b": "x|y"}], ["a", "b"])
  assert table.splitlines()[2:] == ["| 1 |  |", "| 0.1235 | x\\|y |"]


def test_a_table_is_written_between_its_markers(place, rows, capsys):
  """Nothing else of the page changes; a second time changes nothing."""
  page = place / "README.md"
  before = "# T\n<!-- results:quality -->\n"
  after = "<!-- /results -->\n<!-- results:x -->\nold\n<!-- /results -->\n"
  page.write_text(f"{before}old \\1\n{after}")
  options = ["quality", f"--results={place / 'results'}", f"--write={page}"]
  for _ in range(2):
    tables.main([*options, "--columns=sampler.steps,fd"])
    assert page.read_text() == f"{before}{capsys.readouterr().out}{after}"
  with pytest.raises(ValueError, match="found 0"):
    tables.replace_block("text", "quality", "table")


def test_a_plot_is_a_png(place, rows):
  path = place / "plot.png"
  options = ["quality", f"--results={place / 'results'}", f"--plot={path}"]
  tables.main([*options, "--x=sampler.steps", "--y=fd", "--by=prior.name"])
  with Image.open(path) as picture:
    one = picture.size
  tables.main([*options, "--x=sampler.steps", "--y=fd,sampler.steps,fd"])
  with Image.open(path) as picture:
    assert picture.size == (2 * one[0], 2 * one[1])
  with pytest.raises(ValueError, match="No column 'fid'"):
    tables.main([*options, "--x=sampler.steps", "--y=fid"])
  with pytest.raises(ValueError, match="numbers in both"):
    tables.main([*options, "--x=prior.name", "--y=fd"])


def test_a_label_is_not_hidden_by_a_number_of_its_name(tmp_path):
  row = {"overrides": {"sampler": "self"}, "metrics": {"sampler": "critic"}}
  row |= {"point": "sampler=self", "seconds": 1.0}
  (tmp_path / "sampler=self.json").write_text(json.dumps(row))
  [found], _ = tables.load_rows(tmp_path)
  assert found["sampler"] == "self"


def test_samples_of_points_stand_side_by_side(place, rows):
  """Of each its first ones, where column and row cross."""
  for row in rows[0]:
    shade = np.full((8, 8, 8, 3), row["sampler.steps"], np.uint8)
    workdir = place / "runs" / row["point"]
    Image.fromarray(pictures.grid(shade, 8)).save(workdir / "measured.png")
  path = place / "montage.png"
  argv = ["quality", f"--results={place / 'results'}"]
  argv += [f"--workdirs={place / 'runs'}", f"--pictures={path}"]
  argv += ["--x=sampler.steps"]
  assert tables.main(argv) == 0
  with Image.open(path) as picture:
    page = np.asarray(picture)[26:, 110:]  # Without the names.
  for step in (4, 8, 16):
    assert (page == step).all(-1).sum() == tables.SHOWN * 16 * 16
  line = page[8, :, 0]
  assert list(dict.fromkeys(line[np.isin(line, (4, 8, 16))])) == [4, 8, 16]
  workdir.joinpath("measured.png").unlink()
  with pytest.raises(ValueError, match="evaluate that point again"):
    tables.main(argv)


def test_an_empty_folder_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="no row"):
    tables.load_rows(tmp_path)


FIGURE = """
FIGURE = dict(x=("sampler.steps", "sample.guidance"), y=("fd", "recall"))

def sweep(add):
  for steps in (4, 8):
    add({"sampler.steps": steps})
  for guidance in (1.0, 2.0, 3.0):
    add({"sample.guidance": guidance, "prior.name": "a"})
"""
COLUMNS = """
import json, pathlib, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[1:])
steps = float(options.get("config.sampler.steps", 2))
scale = float(options.get("config.sample.guidance", 1))
workdir = pathlib.Path(options["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
numbers = {"other": 1, "fd": steps * scale, "recall": 1 / scale}
(workdir / "metrics.json").write_text(json.dumps(numbers))
"""


def test_a_config_with_a_figure_leaves_a_table_and_a_plot(place):
  """Once all its points are there."""
  (place / "config.py").write_text(FIGURE)
  (place / "fake.py").write_text(COLUMNS)
  folder = place / "results" / "quality"
  assert sweep.main(words(place, "--run", "--point=0")) == 0
  assert not (folder / "table.md").exists()
  assert sweep.main(words(place, "--run")) == 0
  assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
  assert (folder / "table.md").read_text() == (
    "| sampler.steps | sample.guidance | fd | recall |\n"
    "| ---: | ---: | ---: | ---: |\n"
    "| 4 |  | 4 | 1 |\n"
    "| 8 |  | 8 | 1 |\n"
    "|  | 1 | 2 | 1 |\n"
    "|  | 2 | 4 | 0.5 |\n"
    "|  | 3 | 6 | 0.3333 |\n"
  )
  rows, _ = tables.load_rows(folder)
  axes = Figure().add_subplot()  # A panel: the rows that have both.
  tables.panel(axes, rows, "sample.guidance", "recall", None)
  line = axes.lines[0].get_xydata()
  np.testing.assert_allclose(line, [[1, 1], [2, 1 / 2], [3, 1 / 3]])
