"""Captions, classes and their absence: from a request to what a net is told."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import pipeline, plugins, system
from vq_jax.priors import vq_diffusion
from vq_jax.text import learnt
from vq_jax.train import frozen, request, warm

K = 5
NET = dict(
  name="transformer",
  vocab_size=K,
  grid=(2, 2),
  layers=1,
  width=8,
  heads=2,
  remat=False,
)
TEXT = dict(name="learnt", length=6, dim=4, layers=1, heads=2)


def parts(text=True, null="learnt", dropout=0.1, **net):
  config = {
    "net": NET | ({"text_dim": 4} if text else {"labels": 3}) | net,
    "condition": {"dropout": dropout, "null": null},
  }
  return system.build_system(config | ({"text": TEXT} if text else {}))


def fresh_weights(made, seed):
  init = jax.jit(functools.partial(system.init_system, made))
  return jax.device_get(init(jax.random.key(seed)))


@functools.cache
def built(text, null):
  made = parts(text, null)
  params = fresh_weights(made, 0)
  # A fresh modulation is nearly silent: make every condition heard.
  return made, jax.tree.map(
    lambda x: x + 0.3 * np.cos(np.arange(x.size)).reshape(x.shape).astype("f"),
    params,
  )


def words(made, *captions):
  return {"words": jnp.asarray(made.text.words(captions))}


def test_words_are_the_bytes_of_a_caption():
  encoder = learnt.Encoder(length=6)
  found = encoder.words(["Crab ", "", "é!", "a long one"])
  end = learnt.END
  np.testing.assert_array_equal(
    found,
    [
      [99, 114, 97, 98, end, end],
      [end] * 6,
      [0xC3, 0xA9, 33, end, end, end],
      list(b"a long"),
    ],
  )


def test_runs_of_bytes_have_the_published_hash():
  """FNV-1a of "foobar" is bf9cf968; a run does not see where it stands."""
  encoder = learnt.Encoder(length=9)
  words = jnp.asarray(encoder.words(["foobar", "a foobar"]))
  found = np.asarray(learnt.hashes(words, 6))
  expected = 0xBF9CF968 ^ (0xBF9CF968 >> 16)
  assert found[0, 5] == found[1, 7] == expected
  assert len(np.unique(found[0, :6])) == 6


def test_every_position_hears_the_whole_caption_without_a_block():
  encoder = learnt.Encoder(length=12, dim=4, layers=0, buckets=64)
  rows = encoder.words(["a red heart", "a red hearth", "a red hearths"])
  params = encoder.init(jax.random.key(0), rows)
  one, other, cut = np.asarray(encoder.apply(params, rows))
  # The captions differ in their last byte, the features at the first of them
  # as well; what the encoder does not read makes no difference.
  assert np.min(np.max(np.abs(one - other), -1)) > 0.01
  np.testing.assert_array_equal(other, cut)


@pytest.mark.parametrize("null", ["learnt", "fixed"])
def test_a_dropped_caption_is_the_null(null):
  """Learnt features, or those of the empty caption."""
  made, params = built(True, null)
  ask = words(made, "crab", "bee", "crab")
  drop = jnp.array([False, True, True])
  condition = jax.jit(functools.partial(system.condition, made))
  told = condition(params, ask, drop).text
  plain = condition(params, ask).text
  np.testing.assert_array_equal(told[0], plain[0])
  empty = condition(params, words(made, "", "", "")).text[0]
  expected = params["null"] if null == "learnt" else empty
  np.testing.assert_allclose(told[1:], jnp.stack([expected] * 2), rtol=1e-6)
  assert not np.allclose(plain[0], plain[1])


@pytest.mark.parametrize("null", ["learnt", "fixed"])
def test_a_dropped_class_is_the_label_behind_the_last(null):
  made, params = built(False, null)
  drop = jnp.array([False, True])
  told = system.condition(made, params, {"label": jnp.array([1, 2])}, drop)
  np.testing.assert_array_equal(told.label, [1, 3])
  table = params["net"]["blocks"]["mlp_norm"]["embedding"]
  assert table.shape[1] == (4 if null == "learnt" else 3)


def test_only_a_drop_trains_the_null():
  """The null has a gradient where captions are dropped, and nowhere else."""
  made, params = built(True, "learnt")
  ask = words(made, "crab", "bee")
  z = jnp.full((2, 4), K)

  def loss(params, drop):
    cond = system.condition(made, params, ask, drop)
    model = system.make_model(made.net, params["net"], cond)
    return jnp.sum(model.denoise(z, jnp.ones(2))[..., 0])

  grad = jax.jit(jax.grad(loss))
  kept, dropped = (
    grad(params, jnp.array([flag, flag])) for flag in (False, True)
  )
  size = lambda tree: max(jnp.abs(x).max() for x in jax.tree.leaves(tree))  # noqa: E731
  assert size(kept["null"]) == 0 < size(kept["text"])
  assert size(dropped["text"]) == 0 < size(dropped["null"])


def test_guidance_may_differ_by_image():
  """One traced scale an image equals runs at fixed scales, 0 included."""
  made, params = built(True, "learnt")
  prior = vq_diffusion.Prior(K, time_steps=8)
  draw = pipeline.build_sampler({"name": "ancestral", "steps": 3}, prior)
  ask = words(made, "crab", "bee", "owl")
  index = jnp.arange(3)

  one = functools.partial(
    pipeline.generate,
    jax.random.key(3),
    index,
    ask,
    system=made,
    params=params,
    prior=prior,
    draw=draw,
  )
  run = jax.jit(lambda scales: one(guidance=scales))
  scales = jnp.array([0.0, 2.0, 5.0])
  mixed = run(scales)
  for i, scale in enumerate(scales):
    np.testing.assert_array_equal(mixed[i], run(jnp.full(3, scale))[i])
  still = jax.jit(lambda: one(guidance=0.0))()  # Known to be none.
  np.testing.assert_array_equal(mixed[0], still[0])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(text_dim=8), "text_dim is 8"),
    (dict(null="zero"), "'learnt' or 'fixed'"),
    (dict(dropout=1.5), "not in"),
    (dict(text=False, labels=0), "needs a conditional net"),
    (dict(dropout=0.0), "never trained"),
    (dict(text=False, null="fixed", null_label=True), "disagree"),
  ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    parts(**change)


@pytest.fixture
def section(monkeypatch):
  """A config whose tokens are two captions."""

  class Source(list):
    columns: typing.ClassVar = {
      "caption": np.array(["fluent crab", "noto bee"]),
      "label": np.array([2, 1]),
    }

  source = Source(range(2))
  monkeypatch.setattr(request, "read_tokens", lambda config, split: source)
  return {"sample": {"seed": 7, "captions": (), "split": "validation"}}


def test_image_i_shows_the_same_whatever_its_batch(section):
  asks = request.Requests(section, parts(text=False))
  whole = asks(np.arange(40))["label"]
  np.testing.assert_array_equal(asks(np.arange(10, 20))["label"], whole[10:20])
  assert set(whole) == {0, 1, 2}
  section["sample"]["seed"] = 8
  assert (
    request.Requests(section, parts(text=False))(np.arange(40))["label"]
    != whole
  ).any()


def test_captions_are_those_of_the_config_or_of_a_split(section):
  made = parts()
  asks = request.Requests(section, made)
  assert [asks.name(i) for i in range(3)] == [
    "fluent crab",
    "noto bee",
    "fluent crab",
  ]
  section["sample"]["captions"] = ("owl",)
  asks = request.Requests(section, made)
  np.testing.assert_array_equal(
    asks(np.arange(2))["words"], made.text.words(["owl", "owl"])
  )
  assert request.Requests(section, made, "heldout").name(1) == "noto bee"
  classes = request.Requests(section, parts(text=False), "train")
  np.testing.assert_array_equal(classes(np.arange(3))["label"], [2, 1, 2])


def test_a_run_without_a_null_may_be_continued_with_one():
  """Everything is taken over; only what stands for no caption is fresh."""
  old = fresh_weights(parts(null="fixed"), 4)
  fresh = fresh_weights(parts(), 5)
  merged = warm.merge(old, fresh, "run")
  np.testing.assert_array_equal(merged.pop("null"), fresh["null"])
  jax.tree.map(np.testing.assert_array_equal, merged, old)


def test_a_new_class_row_says_what_its_absence_said():
  """The mean row gives the logits of a net that has no row for "no class"."""
  made, params = built(False, "fixed")
  new = parts(text=False)
  configs = (
    {"net": {"labels": 3}, "condition": {"null": null}}
    for null in ("fixed", "learnt")
  )
  tables = warm.null_tables(*configs)
  merged = warm.merge(params, fresh_weights(new, 1), "run", tables)
  z, ask = jnp.full((1, 4), K), {"label": jnp.array([3])}
  logits = [
    system.make_model(m.net, p["net"], system.condition(m, p, ask)).denoise(
      z, None
    )
    for m, p in ((made, params), (new, merged))
  ]
  np.testing.assert_allclose(*logits, rtol=1e-5)


def test_weights_of_another_net_are_refused():
  _, params = built(True, "learnt")
  fresh, old = params, params | {"other": np.zeros(1)}
  with pytest.raises(ValueError, match="no weight 'other'"):
    warm.merge(old, fresh, "run")
  with pytest.raises(ValueError, match="has no weight 'other'"):
    warm.merge(fresh, old, "run")
  wide = fresh | {"net": fresh["net"] | {"positions": np.zeros((9, 9))}}
  with pytest.raises(ValueError, match=r"'net/positions' is \(9, 9\) there"):
    warm.merge(wide, fresh, "run")


def test_a_run_keeps_the_files_of_its_encoder(tmp_path, monkeypatch):
  monkeypatch.setattr(learnt, "FILES", ("weights",))
  file = tmp_path / "tower.safetensors"
  file.write_bytes(b"weights")
  config = {"text": TEXT | {"weights": str(file)}}
  run = tmp_path / "run"
  assert frozen.local_paths(config, run) == config
  frozen.adopt(config, run)
  file.unlink()
  frozen.adopt(config, run)  # Again, without the original: nothing to do.
  kept = frozen.local_paths(config, run)["text"]["weights"]
  assert kept == str(run / "text/tower.safetensors")
  assert (run / "text/tower.safetensors").read_bytes() == b"weights"


def test_text_kinds_keep_their_contract():
  for name in plugins.available("text"):
    module = plugins.resolve("text", name)
    assert isinstance(module.FROZEN, bool) and isinstance(module.FILES, tuple)
    assert {"words", "length", "dim"} <= set(dir(module.Encoder)) | set(
      module.Encoder.__annotations__
    )
    assert hasattr(module, "load") == module.FROZEN
