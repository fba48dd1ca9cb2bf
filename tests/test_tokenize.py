"""--mode=tokenize: killed, shared out or repeated, it writes the same bytes."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import toy
from PIL import Image

from configs import names
from vq_jax import weights
from vq_jax.data import _shards, tokens
from vq_jax.train import actions, codes, tokenize

# Tokenizes, and dies while it writes the second shard.
DEADLY = """
import itertools, json, os, pathlib, signal, sys
import numpy as np
import toy
from vq_jax.train import tokenize
calls, save = itertools.count(), np.save
def deadly(*args, **options):
  save(*args, **options)
  if next(calls) == 5:
    os.kill(os.getpid(), signal.SIGKILL)
np.save = deadly
tokenize.tokenize(
  json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), toy.one_device()
)
"""


def get_config(**options):
  """Names of the validation split, in four shards; nothing is trained."""
  config = json.loads(names.get_config().to_json())
  config["splits"] = ["validation"]
  config["evaluate"]["batch"] = 32
  return {**config, "tokenize": {"shard": 50, **options}}


def run(workdir, **options):
  tokenize.tokenize(get_config(**options), workdir, toy.one_device())


def content(workdir, folder="tokens"):
  """{file: bytes} of all that is there."""
  root = workdir / folder
  files = (path for path in root.rglob("*") if path.is_file())
  return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """What a run in one go writes."""
  workdir = tmp_path_factory.mktemp("whole")
  run(workdir)
  return workdir


@pytest.fixture
def copy(whole, tmp_path):
  """The same, to be damaged."""
  shutil.copytree(whole / "tokens", tmp_path / "tokens")
  return tmp_path


def test_a_manifest_tells_whose_tokens_and_of_what(whole):
  manifest = tokens.read_manifest(whole / "tokens")
  assert manifest["tokenizer"] == codes.digest(whole / "tokens" / "tokenizer")
  records = manifest["splits"]["validation"]
  assert [record["rows"] for record in records] == [50, 50, 50, 46]
  assert manifest["rows"] == {"validation": 196}
  source = tokens.source("validation", path=str(whole / "tokens"))
  assert len(source) == 196


def test_a_killed_run_goes_on_to_the_same_bytes(whole, tmp_path, capsys):
  done = subprocess.run(
    [sys.executable, "-c", DEADLY, json.dumps(get_config()), str(tmp_path)],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
  left = {path.name for path in (tmp_path / "tokens").iterdir()}
  assert left == {"tokenizer", "validation-00000", ".validation-00001.part"}
  run(tmp_path)
  assert "3 shards written, 1 kept" in capsys.readouterr().out
  assert content(tmp_path) == content(whole)


def test_many_processes_write_the_same_bytes_in_any_order(
  whole, tmp_path, capsys
):
  for process in (2, 0, 1):
    assert not (tmp_path / "tokens" / tokens.MANIFEST).exists()
    run(tmp_path, process=process, processes=3)
  told = capsys.readouterr().out
  assert "3 of 4 shards are not there yet, validation-00000 is the f" in told
  assert content(tmp_path) == content(whole)


def test_what_is_whole_is_kept_and_what_is_damaged_written_again(
  whole, copy, capsys
):
  run(copy)
  assert "0 shards written, 4 kept" in capsys.readouterr().out
  file = copy / "tokens" / "validation-00002" / "ids.npy"
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(data)
  (copy / "tokens" / "validation-00003" / "label.npy").write_bytes(b"")
  run(copy)
  assert "2 shards written, 2 kept" in capsys.readouterr().out
  assert content(copy) == content(whole)


def test_another_plan_makes_all_shards_anew(whole, copy, capsys):
  """Not one is kept, and no manifest tells of shards that are about to go."""
  run(copy, shard=100, process=0, processes=2)
  assert "1 shards written, 0 kept" in capsys.readouterr().out
  assert not (copy / "tokens" / tokens.MANIFEST).exists()
  run(copy, shard=100, process=1, processes=2)
  both = [
    tokens.source("validation", path=str(w / "tokens")) for w in (copy, whole)
  ]
  assert [len(s.columns["ids"]) for s in both] == [196, 196]
  np.testing.assert_array_equal(*(s.columns["ids"] for s in both))


@pytest.mark.parametrize(
  ("options", "sentence"),
  [
    (dict(shard=0), r"tokenize\.shard is 0"),
    (dict(process=3, processes=3), r"process is 3; it is one of 0\.\.2"),
    (dict(views=2), "'names' have one view"),
    (dict(view=2), "Did you mean 'views'"),
  ],
)
def test_a_wrong_option_is_said_before_anything_is_written(
  tmp_path, options, sentence
):
  with pytest.raises(ValueError, match=sentence):
    run(tmp_path, **options)
  assert not list(tmp_path.iterdir())


# --- Views ---


class Drawing(list):
  """Pictures of two pixels; what is drawn is anything."""

  def draw(self, i, rng):
    image = rng.integers(0, 255, (1, 2, 3))
    return {"image": image, "caption": f"{self[i]['caption']} {rng.random()}"}


def rows_of(**options):
  pictures = [
    {"image": np.full((1, 2, 3), i), "caption": f"{i}"} for i in range(5)
  ]
  for picture in pictures:
    picture["image"][:, 1] += 100
  options = tokenize.Options(**options)
  return tokenize.Rows(Drawing(pictures), options)


def test_views_of_an_image_lie_side_by_side_each_with_its_mirror_image():
  rows = rows_of(views=3, mirror=True)
  assert len(rows) == 5 * 3 * 2
  assert [rows[6 * i]["image"][0, 0, 0] for i in range(5)] == list(range(5))
  for i in range(0, len(rows), 2):
    one, other = rows[i], rows[i + 1]
    assert one["caption"] == other["caption"]
    assert one["caption"].split()[0] == str(i // 6)
    np.testing.assert_array_equal(one["image"], other["image"][:, ::-1])
  assert len({row["caption"] for row in rows}) == 5 * 3


def test_a_shard_has_the_rows_that_the_whole_has_there():
  rows = rows_of(views=3, shard=4)
  parts = rows.shards()
  assert list(map(len, parts)) == [4, 4, 4, 3]
  found = [part[i]["caption"] for part in parts for i in range(len(part))]
  assert found == [rows[i]["caption"] for i in range(len(rows))]


def test_pictures_some_bad_give_the_same_bytes_in_any_order(tmp_path):
  """Crops, mirrors, captions, whoever meets the bad file first."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "train"
  folder.mkdir()
  for i in range(5):
    pixels = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / f"{i}.txt").write_text("".join(f"{i}{k}\n" for k in "abc"))
  (folder / "2.png").write_bytes(b"\x89PNG torn")
  data = dict(name="folder", path=str(tmp_path), size=4)
  data["transform"] = dict(crop="random_resized")
  options = tokenize.Options(views=3, mirror=True, shard=8)
  encode = lambda images: images[..., 0].reshape(len(images), -1)  # noqa: E731
  for order in (1, -1):
    for number in range(4)[::order]:
      rows = tokenize.rows_of({"data": data}, "train", options)
      shard = rows.shards()[number]
      batches = tokenize.encoded(encode, shard, 3)
      _shards.write(tmp_path / str(order), f"train-{number}", batches, 256)
  found, again = (content(tmp_path / str(order), "") for order in (1, -1))
  assert len(found) == 4 * 6 and found == again
  source = rows.source
  assert [source[2]["caption"], source[3]["caption"]] == ["3a", "3a"]


def test_images_of_another_size_than_the_tokenizers_are_refused(tmp_path):
  config = get_config()
  config["data"]["length"] = 31
  with pytest.raises(ValueError, match=r"make 31 tokens, but .*\(1, 32\)"):
    tokenize.tokenize(config, tmp_path, toy.one_device())


# --- Whose tokens ---


@pytest.fixture
def tokenizers(tmp_path):
  """(config of a prior, its run) with a tokenizer, and tokens of it."""
  part = {"name": "characters"}, {"codebook": np.zeros((2, 2), np.float32)}
  for place in ("tokens", "run"):
    weights.save_part(tmp_path / place / "tokenizer", *part)
  manifest = {"tokenizer": codes.digest(tmp_path / "run" / "tokenizer")}
  weights.write_json(tmp_path / "tokens" / tokens.MANIFEST, manifest)
  config = {"stage": "prior", "data": {"path": str(tmp_path / "tokens")}}
  codes.adopt_tokenizer(config, tmp_path / "run")
  return config, tmp_path / "run"


def other(directory):
  """Another tokenizer, by one number."""
  params = {"codebook": np.eye(2, dtype=np.float32)}
  weights.save_part(directory / "tokenizer", {"name": "characters"}, params)
  return codes.digest(directory / "tokenizer")


def test_a_prior_refuses_tokens_of_another_tokenizer(tokenizers, monkeypatch):
  config, workdir = tokenizers
  path = pathlib.Path(config["data"]["path"])
  weights.write_json(path / tokens.MANIFEST, {"tokenizer": other(path)})
  with pytest.raises(ValueError, match=r"of another tokenizer than .*run was"):
    codes.adopt_tokenizer(config, workdir)
  monkeypatch.setattr(actions, "load", lambda *_: (1, {}))
  with pytest.raises(ValueError, match="of another tokenizer"):
    actions.evaluate(config, workdir, None)


def test_shards_beside_another_tokenizer_are_refused(tokenizers):
  config, workdir = tokenizers
  other(pathlib.Path(config["data"]["path"]))
  with pytest.raises(ValueError, match="not of the tokenizer that lies beside"):
    codes.adopt_tokenizer(config, workdir)
