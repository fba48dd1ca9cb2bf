"""The real stages, tiny: neither resuming nor devices change a number."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import toy
from PIL import Image

from configs import (
  emoji32_absorbing,
  emoji32_autoregressive,
  emoji32_gan,
  emoji32_lcmd,
  emoji32_vqgan,
  vq_diffusion_emoji_class,
  vq_diffusion_emoji_text,
)
from vq_jax import pipeline, weights
from vq_jax.data import _loader, _shards, tokens
from vq_jax.train import checkpoint, layout, loop, prior, vqgan
from vq_jax.train.log import Log

MESHES = {
  "data": functools.partial(layout.make_mesh, 8, 1, 1),
  "fsdp": functools.partial(layout.make_mesh, 1, 8, 1),
  "all": functools.partial(layout.make_mesh, 2, 2, 2),
}
STAGES = (
  "prior",
  pytest.param("text", marks=pytest.mark.slow),
  pytest.param("lcmd", marks=pytest.mark.slow),
  pytest.param("vqgan", marks=pytest.mark.slow),
  pytest.param("gan", marks=pytest.mark.slow),
)


def smoke(module):
  return json.loads(module.get_config("smoke").to_json())


def vqgan_task(path, module=emoji32_vqgan):
  """The smoke tokenizer."""
  del path
  config = smoke(module)
  config["revive_after"] = 2  # Codes are reborn within the six updates.
  return vqgan.make_task(config), config


def gan_task(path):
  """A discriminator that counts from the second update."""
  _, config = vqgan_task(path, emoji32_gan)
  config["adversarial"]["start"] = 1
  return vqgan.make_task(config), config


def prior_task(path, module=emoji32_absorbing, **changes):
  """A smoke prior, and tokens of a tokenizer that was never trained.

  changes: of sections of the config.
  """
  config = smoke(module)
  for section, change in changes.items():
    config[section] |= change
  section = smoke(emoji32_vqgan)["tokenizer"]
  tokenizer = pipeline.build_tokenizer(section)
  abstract = jax.eval_shape(
    vqgan.initial({"tokenizer": section}), jax.random.key(0)
  )
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
  weights.save_part(path / "tokenizer", section, zeros)
  n = tokenizer.grid[0] * tokenizer.grid[1]
  ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, (20, n))
  rows = [
    {"ids": row, "label": i % 3, "caption": f"crab {i}"}
    for i, row in enumerate(ids)
  ]
  splits = {
    split: [
      _shards.write(
        path,
        split,
        _loader.padded(rows, list(rows[0]), 8),
        tokenizer.vocab_size,
      )
    ]
    for split in ("train", "validation")
  }
  manifest = {
    "vocab_size": tokenizer.vocab_size,
    "grid": list(tokenizer.grid),
    "splits": splits,
    "data": {"name": "synthetic", "size": 16},
  }
  (path / tokens.MANIFEST).write_text(json.dumps(manifest))
  config["data"]["path"] = str(path)
  return prior.make_task(config), config


def text_task(path):
  """Captions, an encoder of them, and a memory of the loss at every time."""
  return prior_task(path, vq_diffusion_emoji_text)


def lcmd_task(path):
  """Embeddings, and the average of the weights as a teacher."""
  return prior_task(path, emoji32_lcmd)


TASKS = {
  "prior": prior_task,
  "text": text_task,
  "lcmd": lcmd_task,
  "vqgan": vqgan_task,
  "gan": gan_task,
}


def train(task, config, mesh, workdir, steps, save=100):
  """(state on the host, {step: loss}) after `steps` updates."""
  store = checkpoint.Store(workdir, config, latest=9)
  log = Log(workdir)
  every = dict(log=1, evaluate=100, save=save)
  sizes = {key: config[key] for key in ("batch", "seed")}
  state = loop.fit(task, mesh, store, log, steps=steps, every=every, **sizes)
  store.close()
  log.close()
  rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  losses = {r["step"]: r["train/loss"] for r in rows if "train/loss" in r}
  return jax.device_get(state), losses


@functools.cache
def whole(stage, path):
  """Six updates on one device: (task, config, directory, state, losses)."""
  task, config = TASKS[stage](path / stage)
  task = task._replace(evaluate=lambda state: {}, pictures={})
  workdir = path / f"{stage}-run"
  result = train(task, config, toy.one_device(), workdir, 6, save=3)
  return task, config, workdir, *result


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  return tmp_path_factory.mktemp("stages")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_resumes_bitwise(stage, path, tmp_path):
  task, config, workdir, state, losses = whole(stage, path)
  shutil.copytree(workdir / "checkpoints/3", tmp_path / "checkpoints/3")
  again, later = train(task, config, toy.one_device(), tmp_path, 6)
  assert later == {step: losses[step] for step in (4, 5, 6)}
  for one, two in zip(
    jax.tree.leaves(state), jax.tree.leaves(again), strict=True
  ):
    assert one.dtype == two.dtype and one.tobytes() == two.tobytes()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
  "kind",
  ["all", *(pytest.param(k, marks=pytest.mark.slow) for k in ("data", "fsdp"))],
)
def test_devices_change_no_loss(kind, stage, path, tmp_path, monkeypatch):
  monkeypatch.setattr(layout, "SMALLEST_SPLIT", 64)  # Everything is small.
  task, config, _, _, losses = whole(stage, path)
  _, got = train(task, config, MESHES[kind](), tmp_path, 3)
  expected = {step: losses[step] for step in (1, 2, 3)}
  assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", TASKS)
def test_a_stage_reports_what_it_promises(stage, tmp_path):
  """On eight devices, as `fit` does it: inside of the mesh."""
  task, config = TASKS[stage](tmp_path / "tokens")
  mesh = layout.make_mesh()
  store = checkpoint.Store(tmp_path, config)
  state, _ = loop.start(task, mesh, store, jax.random.key(0))
  store.close()
  log = Log(tmp_path)
  with jax.set_mesh(mesh):
    results = loop.evaluate(task, state, log, 1)
  log.close()
  assert config["keep"]["best"] in ("", *results)
  assert all(np.isfinite(value) for value in results.values())
  for name in task.pictures:
    with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
      assert min(picture.size) > 16


@pytest.mark.parametrize("causal", [False, True])
def test_only_an_autoregressive_prior_has_a_causal_net(causal, tmp_path):
  module = emoji32_autoregressive if causal else emoji32_absorbing
  with pytest.raises(ValueError, match=f"needs a net with causal={causal}"):
    prior_task(tmp_path / "wrong", module, net={"causal": not causal})
  check_update(prior_task(tmp_path / "right", module)[0])


def check_update(task):
  """An update, traced: it keeps the state's form and reports its bound."""
  state = jax.eval_shape(task.init, jax.random.key(0))
  example = {key: task.source[0][key] for key in task.inputs}
  batch = jax.tree.map(lambda x: np.stack([x] * 8), example)
  after, metrics = jax.eval_shape(task.update, state, batch, jax.random.key(0))
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert {"loss", "bits_per_token"} <= set(metrics)


def test_a_prior_of_embeddings_makes_a_whole_task(tmp_path):
  task, _ = lcmd_task(tmp_path)
  check_update(task)
  assert {"samples", "codes"} == set(task.pictures)
  with pytest.raises(ValueError, match="needs a prior with kernel"):
    prior_task(tmp_path, emoji32_lcmd, sampler={"name": "purity"})
  with pytest.raises(ValueError, match=r"time_steps is 100, .* is None"):
    prior_task(tmp_path, emoji32_lcmd, net={"time": "learnt"})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(sampler={"name": "purity"}, prior={"schedule": "mixture"}), "masks"),
    (dict(sample={"temperature": 0.0}), "temperature must be positive"),
    (dict(net={"time_steps": 50}), "time_steps is 50"),
    (dict(net={"labels": 2}), r"class 2, config\.net\.labels = 2 only 0\.\.1"),
    (dict(net={"code_dim": 4}), "needs code_dim = 0"),
  ],
)
def test_what_could_not_be_sampled_is_not_trained(changes, message, tmp_path):
  """Refused when the task is made: before the first update."""
  with pytest.raises(ValueError, match=message):
    prior_task(tmp_path, vq_diffusion_emoji_class, **changes)
