"""References: computed once, passed around, refused when they are others."""

import numpy as np
import pytest

from vq_jax import plugins, weights
from vq_jax.features import Features
from vq_jax.train import compare, reference
from vq_jax.train.protocols import Protocol

DATA = {"name": "synthetic", "size": 8, "count": 11}
PROTOCOL = Protocol({"pixels": ("frechet",)}, kept=4)


def pixels(scale=1.0):
  """A network that is none: some pixels, times a weight, and some others."""

  def images(x):
    x = np.float32(scale) * x[..., 0] / np.float32(255)
    return {"pool": x[:, 2, ::2], "embedding": x[:, 3, :3]}

  return Features("pixels", f"{scale}", {}, images)


def record(data=DATA, protocol=PROTOCOL, measuring=None, split="train"):
  source = plugins.build("data", "source", data, "it", split)
  measuring = measuring or pixels()
  return source, reference.describe(data, protocol, measuring, source)


def get(path, shared=True, batch=4, **changes):
  source, told = record(**changes)
  measuring = changes.get("measuring") or pixels()
  return reference.get(path, shared, told, source, measuring, batch)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_it_holds_the_moments_of_all_and_the_features_of_the_first(
  tmp_path, batch
):
  """However it is batched; and the file gives back every bit."""
  source, _ = record()
  raw = np.stack([source[i]["image"] for i in range(11)])[..., 0]
  raw, others = raw[:, 2, ::2] / np.float32(255), raw[:, 3, :3]
  path = tmp_path / "r.safetensors"
  made = get(path, batch=batch)
  found = made.statistics
  np.testing.assert_allclose(found["mean"], raw.mean(0), rtol=1e-6)
  wanted = np.cov(raw.T)
  np.testing.assert_allclose(found["covariance"], wanted, rtol=1e-5, atol=1e-9)
  again = reference.load(path)
  assert again.record == made.record and again.id == made.id
  assert again.statistics["count"] == 11 and again.kept == 4
  for key in ("mean", "covariance"):
    np.testing.assert_array_equal(found[key], again.statistics[key])
  parts = list(again.batches(3))
  assert [len(part["real_features"]) for part in parts] == [3, 1]
  joined = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
  np.testing.assert_array_equal(joined["real_features"], raw[:4])
  wanted = others[:4] / np.float32(255)
  np.testing.assert_array_equal(joined["real_embedding"], wanted)


def test_it_is_computed_once(tmp_path, monkeypatch):
  path = tmp_path / "r.safetensors"
  made = get(path)
  monkeypatch.setattr(reference, "make", lambda *_: 1 / 0)
  assert get(path).id == made.id
  # Where the data are not, the file is enough.
  told = reference.describe(DATA, PROTOCOL, pixels(), None)
  assert not {"count", "shape", "pixels"} & set(told)
  assert reference.get(path, True, told, None, pixels(), 4).id == made.id


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    (dict(data={**DATA, "count": 12}), "count is 11, not 12"),
    (dict(data={**DATA, "seed": 1}), "pixels is .*, not "),
    (dict(data={**DATA, "size": 16}), "transform is {'size': 8}, not"),
    (dict(split="validation"), "pixels is"),
    (dict(protocol=PROTOCOL._replace(split="heldout")), "split is train, not"),
    (dict(protocol=PROTOCOL._replace(limit=5)), "limit is 0, not 5; .*count"),
    (dict(protocol=PROTOCOL._replace(kept=9)), "kept is 4, not 9"),
    (dict(measuring=pixels(2.0)), "weights is"),
  ],
)
def test_another_one_is_refused_or_made_again(tmp_path, capsys, changes, told):
  """What the user named is kept; the run's own is replaced, and it says why."""
  path = tmp_path / "r.safetensors"
  first = get(path)
  with pytest.raises(ValueError, match=f"another reference .*{told}"):
    get(path, **changes)
  assert reference.load(path).id == first.id
  second = get(path, shared=False, **changes)
  assert second.id != first.id == get(tmp_path / "other").id
  assert "made again" in capsys.readouterr().out
  assert reference.load(path).record == record(**changes)[1]


def test_what_changes_no_pixel_is_no_difference(tmp_path):
  """Where files lie, and which labels are read of them."""
  data = {"name": "folder", "path": "a", "size": 8, "max_bad": 0.5}
  told = [
    reference.describe({**data, **more}, PROTOCOL, pixels(), None)
    for more in ({}, {"path": "b", "max_bad": 0.1})
  ]
  assert told[0] == told[1]
  crop = {"size": 8, "crop": "center", "resample": "bicubic"}
  assert told[0]["transform"] == crop  # As evaluation reads, if not said.
  other = reference.describe(
    {**data, "transform": {"resample": "bilinear", "flip": True}},
    PROTOCOL,
    pixels(),
    None,
  )
  assert reference.differences(told[0], other) == [
    f"transform is {crop}, not { {**crop, 'resample': 'bilinear'} }"
  ]


def test_a_file_with_another_number_in_it_is_refused(tmp_path):
  path = tmp_path / "r.safetensors"
  get(path)
  tree, told = weights.load(path)
  tree["examples"]["real_features"][0, 0] += 1
  weights.save(path, tree, told)
  with pytest.raises(ValueError, match="not those that were written"):
    get(path)
  weights.save(path, tree, "")
  with pytest.raises(ValueError, match="holds no reference"):
    get(path)


def test_without_data_and_without_a_file_there_is_none(tmp_path):
  data = {"name": "folder", "path": str(tmp_path / "no"), "size": 8}
  path = tmp_path / "r.safetensors"
  with pytest.raises(FileNotFoundError, match="no folder of pictures"):
    reference.find(data, "train", [path])
  get(path)
  assert reference.find(data, "train", [path]) is None
  with pytest.raises(FileNotFoundError, match="no folder of pictures"):
    reference.find(data, "train", [path, tmp_path / "of another network"])


def test_networks_that_cannot_be_had_are_one_sentence(tmp_path):
  section = {"features": "", "weights": str(tmp_path)}
  assert compare.load(section) == []
  with pytest.raises(ValueError, match=r"features is empty; .*emoji"):
    compare.check_networks([])
  with pytest.raises(FileNotFoundError, match="--family=inception"):
    compare.load({**section, "features": "emoji,inception"})
  network = pixels()._replace(distances=lambda x, y: None)
  with pytest.raises(ValueError, match="compare pairs of images, not sets"):
    compare.check_networks([network])
