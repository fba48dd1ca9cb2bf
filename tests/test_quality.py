"""How samples are compared with the data, whoever draws them."""

import types

import numpy as np
import pytest

from configs import emoji32_vqgan
from vq_jax import weights
from vq_jax.data import _loader, _shards, synthetic, tokens
from vq_jax.train import compare, quality

COUNT, BATCH = 24, 8
DATA = {"name": "synthetic", "size": 16, "count": COUNT}


@pytest.fixture
def case(tmp_path):
  """(config, run directory, system) of a prior without a condition."""
  for part in ("tokens", "run"):
    section = emoji32_vqgan.get_config("smoke").tokenizer.to_dict()
    weights.write_json(tmp_path / part / "tokenizer" / "config.json", section)
  rows = [{"ids": np.arange(4)}] * COUNT
  splits = {
    split: [
      _shards.write(
        tmp_path / "tokens", split, _loader.padded(rows, ("ids",), BATCH), 4
      )
    ]
    for split in ("train", "validation")
  }
  manifest = {"vocab_size": 4, "grid": [2, 2], "splits": splits, "data": DATA}
  weights.write_json(tmp_path / "tokens" / tokens.MANIFEST, manifest)
  config = {
    "data": {"name": "tokens", "path": str(tmp_path / "tokens")},
    "sample": {"count": COUNT, "batch": BATCH, "seed": 0},
    "evaluate": {
      "features": "emoji",
      "batch": BATCH,
      "neighbours": {"samples": 6, "k": 2},
    },
  }
  net = types.SimpleNamespace(labels=0)
  return config, tmp_path / "run", types.SimpleNamespace(net=net, text=None)


def memory(requests, count):
  """A painter that knows the training pictures by heart."""
  del requests
  train = synthetic.source("train", size=16, count=COUNT)
  for rows in _loader.padded(train, ("image",), BATCH, count):
    fake = rows["image"].astype(np.float32) / 255.0
    yield {"fake": fake, "mask": rows["mask"], "ids": np.zeros((BATCH, 4), int)}


def test_the_training_pictures_themselves_are_perfect_and_memorised(case):
  config, workdir, system = case
  networks = compare.load(config["evaluate"])
  numbers = quality.measure(config, workdir, system, memory, networks)
  assert numbers["emoji_fd"] == pytest.approx(0.0, abs=1e-3)
  for name in ("precision", "recall", "coverage"):
    assert numbers[f"emoji_{name}"] == 1.0
  nearest = "emoji_nearest_distance"
  assert numbers[nearest] == 0.0 < numbers[f"{nearest}_of_validation"]
  assert (workdir / "neighbours.png").is_file()
  assert numbers["reference"].startswith(f"synthetic-train-{COUNT}-")


def test_without_features_no_picture_is_drawn(case, capsys):
  config, workdir, system = case
  numbers = quality.measure(config, workdir, system, lambda *_: 1 / 0, [])
  assert numbers == {}
  assert "features is empty" in capsys.readouterr().out
