"""--mode=evaluate of folders and .npz files, against the images themselves."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

from vq_jax import evaluate, main, plugins
from vq_jax.train import compare, images, protocols, reference

# ml_collections reads config files in a way that Python is giving up.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)
COUNT = 20
DATA = {"name": "synthetic", "size": 16, "count": COUNT}
CONFIG = {
  "data": DATA,
  "evaluate": {
    "batch": 8,
    "features": "emoji",
    "neighbours": {"samples": 5, "k": 2},
  },
}


def pictures(split):
  source = plugins.build("data", "source", DATA, "it", split)
  return np.stack([source[i]["image"] for i in range(COUNT)])


def write_folder(path, pixels):
  for i, image in enumerate(pixels):
    file = path / f"{i // 8}" / f"{i:06d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)
  (path / "notes.txt").write_text("no picture")
  return path


def write_npz(path, pixels, save=np.savez):
  save(path, pixels, np.zeros(len(pixels), np.int64))  # As ADM: with labels.
  return path


FORMS = {
  "folder": lambda path, x: write_folder(path / "samples", x),
  "npz": lambda path, x: write_npz(path / "samples.npz", x),
  "compressed": lambda path, x: write_npz(
    path / "samples.npz", x, np.savez_compressed
  ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [7, 32])
def test_images_are_read_whole_and_in_order(form, size, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
  path = FORMS[form](tmp_path, pixels)
  count, arrays = images.read(path, size)
  assert count == COUNT
  rows = list(images.batches(arrays, size, "x"))
  assert all(row["fake"].shape == (size, 6, 5, 3) for row in rows)
  found = np.concatenate([row["fake"][row["mask"]] for row in rows])
  np.testing.assert_array_equal(found, pixels.astype(np.float32) / 255)


def by_hand(fake):
  """The numbers by one fold over everything, without a stored reference."""
  module = plugins.resolve("features", "emoji")
  params, features = module.load(), jax.jit(module.image_features)
  rows = {
    f"{kind}_features": features(params, x / np.float32(255))[0]
    for kind, x in (("real", pictures("train")), ("fake", fake))
  }
  return evaluate.fold({"frechet": {}, "prdc": {"nearest_k": 3}}, [rows])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  """(directory, fakes, row) of a command as a user types it."""
  path = tmp_path_factory.mktemp("images")
  fake = pictures("validation")
  FORMS["npz"](path, fake)
  (path / "config.py").write_text(
    "import ml_collections\n"
    f"def get_config(): return ml_collections.ConfigDict({CONFIG!r} | "
    "{'mesh': dict(data=-1, fsdp=1, tensor=1)})\n"
  )
  command(
    f"--config={path / 'config.py'}",
    "--mode=evaluate",
    f"--images={path / 'samples.npz'}",
    f"--workdir={path / 'out'}",
  )
  return path, fake, json.loads((path / "out" / "metrics.json").read_text())


def command(*words):
  known, argv = set(flags.FLAGS), ["vq_jax", *words]
  before, sys.argv = sys.argv, argv  # Where overrides are looked for.
  try:
    main.main(main.parse_flags(argv))
  finally:
    sys.argv = before
    for name in set(flags.FLAGS) - known:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def test_a_row_has_the_numbers_and_what_they_depend_on(measured):
  path, fake, row = measured
  for key, value in by_hand(fake).items():
    assert row[f"emoji_{key}"] == pytest.approx(value, rel=1e-4), key
  assert row["emoji_nearest_distance"] > 0
  assert row["images"] == str(path / "samples.npz") and row["samples"] == COUNT
  stored = reference.load(path / "out" / "reference" / "emoji.safetensors")
  assert row["reference"] == stored.id
  assert row["reference_images"] == row["reference_examples"] == COUNT
  assert row["features"] == "emoji" and len(row["features_hash"]) == 64
  assert row["protocol"] == "" and row["revision"]
  for name in ("measured.png", "neighbours.png"):
    assert (path / "out" / name).is_file()


def measure(fake, workdir, batch=8, **section):
  config = {**CONFIG, "evaluate": {**CONFIG["evaluate"], **section}}
  arrays = (fake[i : i + batch] for i in range(0, len(fake), batch))
  networks = compare.load(config["evaluate"])
  drawn, count = images.batches(arrays, batch, "it"), len(fake)
  return compare.measure(config, workdir, networks, drawn, count, "it")


def test_a_reference_that_was_passed_around_gives_the_same_row(
  measured, tmp_path
):
  """In other batches, and with no reference of its own."""
  path, fake, row = measured
  given = str(path / "out" / reference.FOLDER)
  found = measure(fake, tmp_path, batch=32, reference=given)
  assert not (tmp_path / reference.FOLDER).exists()
  for key, value in found.items():
    expected = row[key]
    if isinstance(value, float):
      expected = pytest.approx(expected, rel=1e-6)
    assert value == expected, key


def test_examples_that_were_not_kept_count_in_the_moments_alone(
  measured, tmp_path, monkeypatch
):
  """frechet reads all images of the dataset, prdc the first ones."""
  _, fake, row = measured
  protocol = protocols.Protocol({"emoji": protocols.COMMON}, kept=7)
  monkeypatch.setattr(protocols, "of", lambda config: protocol)
  found = measure(fake, tmp_path)
  assert found["emoji_fd"] == pytest.approx(row["emoji_fd"], rel=1e-6)
  assert found["reference_examples"] == 7 < found["reference_images"]
  assert round(7 * found["emoji_recall"], 6).is_integer()


def test_images_of_another_size_or_too_few_are_refused(measured, tmp_path):
  _, fake, _ = measured
  given = str(measured[0] / "out" / reference.FOLDER)
  large = fake.repeat(2, 1).repeat(2, 2)
  with pytest.raises(ValueError, match=r"32 x 32 x 3, the ref.* 16 x 16 x 3"):
    measure(large, tmp_path, reference=given)
  with pytest.raises(ValueError, match=r"has 3 images; 4 are .* \(k = 3\)"):
    measure(fake[:3], tmp_path, reference=given)


def test_bytes_that_were_scaled_to_one_are_refused():
  dark = np.ones((4, 2, 2, 3), np.uint8)
  with pytest.raises(ValueError, match=r"no value above 1: .*\[0, 1\]"):
    list(images.batches(iter([dark]), 4, "it"))
  assert list(images.batches(iter([dark, 2 * dark]), 4, "it"))


@pytest.mark.parametrize(
  ("name", "array", "told"),
  [
    ("arr_0", np.linspace(-1, 1, 96).reshape(2, 4, 4, 3), "values -1 to 1"),
    ("arr_0", np.zeros((4, 2, 2, 1), np.uint8), r"uint8 \[4, 2, 2, 1\]"),
    ("arr_0", np.array([{}]), "Python objects"),
    ("arr_0", np.zeros((4, 2, 2, 3), np.uint8, "F"), "Fortran"),
    ("images", np.zeros((4, 2, 2, 3), np.uint8), r"it has \['images'\]"),
  ],
)
def test_arrays_of_other_things_are_refused(name, array, told, tmp_path):
  np.savez(tmp_path / "x.npz", **{name: array})
  with pytest.raises(ValueError, match=told):
    images.read(tmp_path / "x.npz", 4)


def test_damaged_files_are_refused(tmp_path):
  path = write_npz(tmp_path / "x.npz", pictures("train"))
  data = bytearray(path.read_bytes())
  data[1000] ^= 255
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"no whole \.npz"):
    list(images.read(path, 8)[1])
  path.write_bytes(data[:2000])
  with pytest.raises(ValueError, match=r"no whole \.npz"):
    images.read(path, 8)
  with pytest.raises(FileNotFoundError, match="no folder or file"):
    images.read(tmp_path / "no", 8)
  with pytest.raises(FileNotFoundError, match="holds no picture"):
    (tmp_path / "empty").mkdir()
    images.read(tmp_path / "empty", 8)


def test_a_folder_of_two_sizes_names_the_odd_one(tmp_path):
  path = write_folder(tmp_path / "x", pictures("train"))
  Image.new("RGB", (8, 16)).save(path / "1" / "000011.png")
  with pytest.raises(ValueError, match=r"000011.png has 16 x 8 .* 16 x 16"):
    list(images.read(path, 8)[1])
  (path / "1" / "000011.png").write_bytes(b"no")
  with pytest.raises(ValueError, match=r"000011.png cannot be decoded"):
    list(images.read(path, 8)[1])


def test_a_run_keeps_its_own_metrics(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ValueError, match=r"is a run, .* another --workdir"):
    images.evaluate(CONFIG, tmp_path, pathlib.Path("x.npz"))
