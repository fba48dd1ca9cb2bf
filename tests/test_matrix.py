"""Every sampler with every prior: it runs, or is refused before it compiles."""

import functools
import importlib.util
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vq_jax import matrix, pipeline
from vq_jax.system import System

ROOT = pathlib.Path(__file__).parents[1]
K, GRID = matrix.K, matrix.CANVAS
REVEAL = {"confidence", "critic", "fewer_tokens", "halton", "purity"}
CHAIN = {"ancestral", "corrector"}
MASKS = REVEAL | CHAIN | {"events", "remask"}
LEGAL = {
  "absorbing": MASKS,
  "autoregressive": {"autoregressive"},
  "d3pm": CHAIN,
  "lcmd": CHAIN | {"ddim", "multistep"},
  "maskgit": MASKS,
  "vq_diffusion": REVEAL | CHAIN,  # A millionth of its tokens is replaced.
}
PAIRS = matrix.pairs()
YES = [pair for pair, said in PAIRS.items() if said == "yes"]
NO = [pair for pair, said in PAIRS.items() if said != "yes"]


class Net:
  """Logits that depend on every token and the time, of ids or embeddings."""

  grid, vocab_size, labels = GRID, K, 0

  def apply(self, variables, z, t, cond, *, train, rngs):
    del cond, train, rngs
    w = variables["params"]["w"]
    x = w[z] if z.ndim == 2 else z @ w
    return x + x.mean(1, keepdims=True) * t[:, None, None]


def generator(sampler, prior, known=None, net=None):
  """(key, image numbers [b]) -> ids [b n]."""
  w = np.random.default_rng(0).normal(size=(K + 1, K))
  params = {"w": jnp.asarray(w, jnp.float32)}
  if getattr(prior, "embedded", False):  # Codes on the circle, that say so.
    codes = jnp.array([[1.0, 0], [0, 1], [-1, 0], [0, -1], [0, 0]])
    params = {"w": 4.0 * codes[:-1].T, "codes": codes}
  draw = pipeline.build_sampler(matrix.options(sampler), prior, canvas=GRID)
  return functools.partial(
    pipeline.generate,
    requests={},
    system=System(net or Net(), None, "fixed"),
    params={"net": params},
    prior=prior,
    draw=draw,
    known=known,
  )


def test_the_legal_pairs_are_those_of_the_papers():
  """Written by hand: which chains reveal, which revise, which are Gaussian."""
  for prior in matrix.sections():
    legal = {sampler for sampler, label in YES if label == prior}
    assert legal == LEGAL[prior], prior


@pytest.mark.parametrize(("sampler", "label"), YES)
def test_a_legal_pair_draws_images_of_their_numbers(sampler, label, key):
  """Codes only; what is known stays; an image depends on neither its batch
  nor its place in it; one trace serves all batches of a shape."""
  prior = pipeline.build_prior(matrix.sections()[label])
  known = jnp.full(6, K).at[jnp.array([0, 4])].set(jnp.array([2, 1]))
  traces = []

  class Counted(Net):
    def apply(self, *args, **options):
      traces.append(1)
      return super().apply(*args, **options)

  run = jax.jit(generator(sampler, prior, known, Counted()))
  first = np.asarray(run(key, indices=jnp.arange(4)))
  count = len(traces)
  other = np.asarray(run(key, indices=jnp.array([9, 2, 3, 0])))
  assert len(traces) == count <= 2  # A step; of embeddings, the ids at the end.
  assert first.shape == (4, 6) and (first >= 0).all() and (first < K).all()
  np.testing.assert_array_equal(first[:, [0, 4]], np.tile([2, 1], (4, 1)))
  np.testing.assert_array_equal(other[1:], first[[2, 3, 0]])
  assert len(np.unique(np.concatenate([first, other[:1]]), axis=0)) > 1


@pytest.mark.parametrize(("sampler", "label"), NO)
def test_an_illegal_pair_is_refused_before_it_compiles(sampler, label, key):
  """With the sentence of the matrix, which says what is missing."""
  prior = pipeline.build_prior(matrix.sections()[label])
  with pytest.raises(ValueError, match="needs a") as refusal:
    generate = generator(sampler, prior)
    jax.jit(generate).lower(key, indices=jnp.arange(2))
  assert str(refusal.value) == PAIRS[sampler, label]


def test_the_table_is_written_between_its_markers(tmp_path, capsys):
  path = ROOT / "docs" / "results" / "matrix.py"
  spec = importlib.util.spec_from_file_location("matrix_table", path)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  readme = tmp_path / "README.md"
  readme.write_text("a\n<!-- matrix -->\nold\n<!-- /matrix -->\nb\n")
  with mock.patch.object(matrix, "pairs", lambda: PAIRS):
    script.main([f"--write={readme}"])
    text = readme.read_text()
    assert text.startswith("a\n<!-- matrix -->\n| sampler | needs | absorbing")
    assert text.endswith("<!-- /matrix -->\nb\n") and "old" not in text
    rows = [line.split(" | ") for line in text.splitlines() if "| `" in line]
    yes = sum(cell.strip(" |") == "yes" for row in rows for cell in row)
    assert len(rows) * len(matrix.sections()) == len(PAIRS)
    assert yes == len(YES)
    assert "no `estimate`, `move`" in text and "replaces none" in text
    told = script.PATTERN.search(text)[0]
    assert told in (ROOT / "README.md").read_text(), "README's is old"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="found 0"):
      script.main([f"--write={readme}"])
  capsys.readouterr()
