"""Text features that were stored: those of the encoder, and in its place."""

import functools
import json

import jax
import numpy as np
import pytest
import toy
from PIL import Image

from configs import names, vq_diffusion
from vq_jax import font, pipeline, weights
from vq_jax.data import _loader, tokens
from vq_jax.system import build_system, condition, conditional_model
from vq_jax.text import clip
from vq_jax.train import frozen, prior, stored, tokenize

KEY = jax.random.key(5)
FIELDS = dict(length=8, dim=4, layers=1, heads=2, vocab_size=514)
CAPTIONS = {  # Of pictures; the second has none.
  "train": [["a red crab", "Crab", "the crab"], [], ["owl"]],
  "validation": [["a crab", "bee"]],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """Pictures of one character with captions, and two encoders' weights."""
  place = tmp_path_factory.mktemp("stored")
  rng = np.random.default_rng(0)
  for split, pictures in CAPTIONS.items():
    (place / "pictures" / split).mkdir(parents=True)
    for i, captions in enumerate(pictures):
      file = place / "pictures" / split / f"{i}.png"
      pixels = rng.integers(0, 256, (font.SIDE, font.SIDE, 3), np.uint8)
      Image.fromarray(pixels).save(file)
      if captions:
        file.with_suffix(".txt").write_text("\n".join(captions))
  (place / "merges.txt").write_text("#version: 0.2\n")
  shapes = jax.eval_shape(
    clip.Encoder("", "", **FIELDS).init,
    jax.random.key(0),
    np.zeros((1, FIELDS["length"]), np.int32),
  )
  for name in ("one", "other"):
    tree = jax.tree.map(
      lambda x: rng.normal(0.0, 0.5, x.shape).astype(np.float32),
      shapes["params"],
    )
    weights.save(place / name, tree)
  run(place, "plain")
  run(place, "stored", text=section(place))
  return place


def section(place, name="one", **fields):
  """config.text of one of the two."""
  files = dict(weights=str(place / name), merges=str(place / "merges.txt"))
  return dict(name="clip", **files, **FIELDS) | fields


def run(place, workdir, **options):
  """Tokenizes; views of training pictures, and their mirror images."""
  config = json.loads(names.get_config().to_json())
  size, folder = font.SIDE, str(place / "pictures")
  config["data"] = {"name": "folder", "path": folder, "size": size}
  config["tokenizer"]["length"] = 1
  config["evaluate"]["batch"] = 2
  config["tokenize"] = dict(views=2, mirror=True, shard=7) | options
  tokenize.tokenize(config, place / workdir, toy.one_device())


def read(place, workdir, split="train"):
  return tokens.source(split, path=str(place / workdir / "tokens"))


@functools.cache
def encoder(place):
  """caption -> features [m d], one at a time."""
  text = stored.build(section(place))
  params = clip.load(text)
  run = jax.jit(lambda words: text.apply({"params": params}, words))
  return lambda caption: np.asarray(run(text.words([caption])))[0]


def make_config(place, workdir, null="learnt", **text):
  """A tiny prior of captions."""
  config = json.loads(vq_diffusion.get_config("smoke").to_json())
  config["data"]["path"] = str(place / workdir / "tokens")
  config["text"] = section(place, **text)
  k = len(font.ALPHABET)
  config["net"] |= dict(width=8, text_dim=4, vocab_size=k, grid=(1, 1))
  config["prior"] |= dict(vocab_size=k, time_steps=4, bound_times=2)
  config["net"]["time_steps"] = 4
  config["condition"] = dict(dropout=0.5, null=null)
  return config


def test_a_row_has_the_features_of_the_caption_it_shows(place):
  """As it lies there, and after another of its captions was drawn."""
  source, plain = read(place, "stored"), read(place, "plain")
  assert len(source) == len(plain) == 3 * 2 * 2
  seen = set()
  for i in range(len(source)):
    for seed in range(6):
      rows = [
        part.draw(i, np.random.default_rng(seed)) if seed else part[i]
        for part in (source, plain)
      ]
      features, caption = rows[0]["features"], rows[0]["caption"]
      assert caption == rows[1]["caption"] and features.dtype == np.float16
      np.testing.assert_allclose(features, encoder(place)(caption), atol=3e-4)
      seen.add(caption)
  assert seen == {"", *CAPTIONS["train"][0], "owl"}
  assert set(source.columns) == set(plain.columns)


def test_rows_of_the_same_captions_share_their_features(place):
  """Four rows a picture, seven a shard: three captions, none, and one."""
  tables = [
    np.load(file)
    for file in sorted((place / "stored/tokens").glob("*/*.table.npy"))
  ]
  shape = FIELDS["length"], FIELDS["dim"]
  assert [t.shape for t in tables] == [(4, *shape), (2, *shape), (2, *shape)]
  np.testing.assert_array_equal(tables[0][3], tables[1][0])


def test_many_processes_store_the_same_bytes_and_keep_what_is_whole(
  place, tmp_path, capsys
):
  for process in (1, 0):
    run(place, tmp_path, text=section(place), process=process, processes=2)
  run(place, tmp_path, text=section(place))
  assert "0 shards written, 3 kept" in capsys.readouterr().out
  found, whole = (
    {
      str(file.relative_to(root)): file.read_bytes()
      for file in (root / "tokens").rglob("*.*")
    }
    for root in (tmp_path, place / "stored")
  )
  assert found == whole
  run(place, tmp_path, text=section(place, "other"))  # Other bytes: all anew.
  assert "3 shards written, 0 kept" in capsys.readouterr().out


@functools.cache
def tasks(place, null):
  """(system, two priors' tasks, and the same batch of each)."""
  configs = [make_config(place, name, null) for name in ("plain", "stored")]
  both = [prior.make_task(config) for config in configs]
  batches = [
    _loader.Shuffled(task.source, task.inputs, 8, seed=3).rows(1)
    for task in both
  ]
  return build_system(configs[0]), both, batches


@pytest.mark.parametrize("null", ["learnt", "fixed"])
def test_a_net_is_told_the_same_with_the_encoder_as_without(place, null):
  """Half of the captions are dropped. What is dropped is as exact as ever; of a
  learnt null, or where nothing is, the encoder is never run."""
  made, (one, other), batches = tasks(place, null)
  assert (one.inputs, other.inputs) == (("ids", "words"), ("ids", "features"))
  np.testing.assert_array_equal(*(batch["ids"] for batch in batches))
  fixed = frozen.load(made)
  none = jax.tree.map(lambda x: x * np.nan, fixed)
  params = {"null": np.ones((made.text.length, made.text.dim), np.float32)}
  drop = np.arange(8) % 2 == 0
  tell = jax.jit(functools.partial(condition, made))
  for gone in (None, drop):
    broken = fixed if null == "fixed" and gone is drop else none
    wanted = tell(params | fixed, batches[0], gone).text
    found = tell(params | broken, batches[1], gone).text
    assert found.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=3e-4)
    assert len(np.unique(np.round(wanted, 2), axis=0)) > 2
  np.testing.assert_allclose(found[drop], wanted[drop], atol=1e-6)


def test_a_prior_loses_as_much_with_the_encoder_as_without(place):
  """To the rounding of float16; and captions are heard."""
  made, both, batches = tasks(place, "fixed")
  config = make_config(place, "stored", "fixed")
  chain = pipeline.build_prior(config["prior"])
  state = jax.eval_shape(both[0].init, jax.random.key(0))
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: rng.normal(0.0, 0.7, x.shape).astype(x.dtype), state.params
  ) | frozen.load(made)

  @jax.jit
  def loss(batch):
    drop = np.arange(8) % 2 == 0
    model = conditional_model(made, params, batch, drop)
    return chain.loss(KEY, model, batch["ids"], memory=chain.memory())[0]

  wanted, found = map(loss, batches)
  assert found == pytest.approx(float(wanted), rel=1e-3)
  wrong = batches[1] | {"features": -batches[1]["features"]}
  assert abs(loss(wrong) - wanted) > 1e-2 * wanted
  after, _ = jax.eval_shape(both[1].update, state, batches[1], KEY)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  none = {"text": jax.tree.map(lambda x: x * np.nan, params["text"])}
  rows = prior.scores(config, made, chain, both[1].source, params | none)
  assert np.isfinite(next(rows)["bits"]).all()  # No encoder is run.


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    (dict(name="other"), r"\(other weights\)"),
    (dict(dtype="float16", normalize=False), r"\(other dtype, normalize\)"),
  ],
)
def test_features_of_another_encoder_are_refused(place, fields, told):
  config = make_config(place, "stored")
  name = fields.pop("name", "one")
  config["text"] = section(place, name, **fields)
  with pytest.raises(ValueError, match=f"of another encoder.*{told}"):
    prior.make_task(config)


def test_a_learnt_encoder_stores_none_and_reads_none(place, tmp_path):
  text = dict(name="learnt", length=8, dim=4, layers=1, heads=2, buckets=64)
  config = make_config(place, "stored") | {"text": text}
  assert prior.make_task(config).inputs == ("ids", "words")
  with pytest.raises(ValueError, match="'learnt', which is trained with its"):
    run(place, tmp_path / "run", text=text)
  assert not list(tmp_path.iterdir())
