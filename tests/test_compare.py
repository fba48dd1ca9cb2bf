"""Several networks look at the same images, each for its own metrics."""

import jax
import numpy as np
import pytest

from configs import emoji32_vqgan
from vq_jax import evaluate, main, pipeline, plugins
from vq_jax.features import Features
from vq_jax.train import actions, compare, images, vqgan

COUNT = 20
CONFIG = {
  "data": {"name": "synthetic", "size": 16, "count": COUNT},
  "evaluate": {
    "batch": 8,
    "features": "inception,clip",
    "neighbours": {"samples": 5, "k": 2},
  },
}


def pictures(split):
  source = plugins.build("data", "source", CONFIG["data"], "it", split)
  return np.stack([source[i]["image"] for i in range(COUNT)])


def pixels(x):
  return np.asarray(x, np.float32)[..., 0].reshape(len(x), -1) / 255


def see(x):
  """What a network would give, if pixels were features."""
  x = pixels(x)
  seen = {"pool": x[:, :6], "logits_unbiased": 9 * x[:, 6:9]}
  return seen | {"embedding": x[:, 9:15] + 0.1}


def measure(fake, workdir):
  """Of a CLIP that reads captions as numbers of pictures."""

  def texts(captions):
    return see(fake[[int(caption) for caption in captions]])["embedding"]

  networks = [
    Features("inception", "hash of one", {}, see),
    Features("clip", "hash of two", {}, see, texts),
  ]
  parts = np.split(fake, range(8, COUNT, 8))
  batches = list(images.batches(iter(parts), 8, "it"))
  for i, batch in enumerate(batches):
    numbers = np.minimum(np.arange(8 * i, 8 * i + 8), COUNT - 1)
    batch["caption"] = list(map(str, numbers))
  drawn = iter(batches)  # Once.
  return compare.measure(
    CONFIG, workdir, networks, drawn, COUNT, "it", captions=True
  )


def test_every_network_sees_the_samples_that_are_drawn_once(
  tmp_path, monkeypatch, capsys
):
  """A number is that of the metric alone; those that cannot be are named."""
  monkeypatch.setitem(compare.LEAST, "kid", COUNT + 1)
  fake = pictures("validation")
  found = measure(fake, tmp_path)
  rows = {
    f"{kind}_{name}": see(x)[key]
    for kind, x in (("real", pictures("train")), ("fake", fake))
    for key, name in evaluate.OUTPUTS.items()
  }
  wanted = evaluate.fold(
    {"frechet": {}, "prdc": {}, "inception_score": {}, "cmmd": {}}, [rows]
  )
  for key in ("fd", "precision", "recall", "density", "coverage"):
    assert found[f"inception_{key}"] == pytest.approx(wanted[key], rel=1e-6)
  score = wanted["inception_score"]
  assert found["inception_score"] == pytest.approx(score, rel=1e-6)
  assert found["clip_cmmd"] == pytest.approx(wanted["cmmd"], rel=1e-6)
  assert found["clip_score"] == pytest.approx(1.0, rel=1e-6)
  assert not {"inception_kid", "clip_fd"} & found.keys()
  told = f"kid needs {COUNT + 1} images, not {COUNT}: it is left out"
  assert told in capsys.readouterr().out
  assert found["features"] == "inception,clip"
  assert found["features_hash"] == "hash of one,hash of two"
  stored = sorted(path.stem for path in (tmp_path / "reference").iterdir())
  assert stored == ["clip", "inception"]


def test_metrics_need_images_and_captions(capsys):
  names = ["clip_score", "cmmd", "kid", "frechet"]
  assert compare.possible(names, 1000, True) == names
  assert compare.possible(names, 999, False) == ["cmmd", "frechet"]
  told = capsys.readouterr().out
  assert "clip_score needs captions" in told
  assert "kid needs 1000 images, not 999" in told


def test_too_few_images_for_a_covariance_are_warned_of(tmp_path):
  few = {f"{kind}_features": np.eye(4)[:3] for kind in ("real", "fake")}
  with pytest.warns(UserWarning, match="3 real examples of 4 features, too"):
    evaluate.fold({"frechet": {}}, [few])
  text = main.warning(UserWarning("too few"), UserWarning, "file.py", 3)
  assert text == "warning: too few\n"


def test_reconstructions_are_measured_as_sets_as_pairs_and_as_pixels(
  monkeypatch,
):
  """rFID, LPIPS and PSNR, each as if it were alone."""

  def gap(x, y):
    return np.abs(pixels(x) - pixels(y)).sum(axis=1)

  sets = Features("small", "1", {}, lambda x: {"pool": pixels(x)[:, :5]})
  pairs = Features("lpips", "2", {}, None, distances=gap)
  monkeypatch.setattr(compare, "load", lambda section: [sets, pairs])
  config = emoji32_vqgan.get_config("smoke").to_dict()
  config["data"] = CONFIG["data"]
  params = vqgan.initial(config)(jax.random.key(0))
  found = vqgan.measure(config, None, None, params)
  source = plugins.build("data", "source", config["data"], "it", "validation")
  tokenizer = pipeline.build_tokenizer(config["tokenizer"])
  [rows] = evaluate.reconstructions(tokenizer, params, source, len(source))
  seen = {kind: pipeline.to_uint8(rows[kind]) for kind in ("real", "fake")}
  few = {f"{kind}_features": pixels(x)[:, :5] for kind, x in seen.items()}
  wanted = evaluate.fold({"frechet": {}, "psnr": {}}, [rows | few])
  assert found["small_rfd"] == pytest.approx(wanted["fd"], rel=1e-4)
  assert found["psnr_db"] == pytest.approx(wanted["psnr_db"], rel=1e-5)
  mean = gap(*seen.values()).mean()
  assert found["lpips"] == pytest.approx(mean, rel=1e-4)
  assert found["features"] == "small,lpips"


def test_a_tokenizer_has_no_protocol(tmp_path):
  section = {"features": "inception", "protocol": "ut_ffhq"}
  config = {"stage": "vqgan", "evaluate": section}
  with pytest.raises(ValueError, match=r"of samples; .*stage = 'vqgan'"):
    actions.evaluate(config, tmp_path, None)
