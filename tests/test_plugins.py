"""Registries, config sections, and the layering of the package."""

import ast
import pathlib
import subprocess
import sys

import pytest

import vq_jax
from vq_jax import pipeline, plugins

ROOT = pathlib.Path(vq_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A module may import from its own layer's package and from lower layers only.
LAYERS = {
  "main": 6,
  "report": 6,
  "train": 5,
  "evaluate": 4,
  "matrix": 4,
  "pipeline": 3,
  "system": 2.5,
  "features": 2.5,
  "convert": 3,
  "data": 2,
  "text": 2,
  "tokenizer": 2,
  "nets": 2,
  "priors": 2,
  "samplers": 2,
  "metrics": 2,
  "models": 1,
  "transitions": 1,
  "schedules": 1,
  "steps": 1,
  "ops": 1,
  "weights": 1,
  "pictures": 1,
  "font": 1,
  "revision": 0,
  "plugins": 0,
  "types": 0,
}
FENCES = {
  "flax": {"nets", "tokenizer", "text", "features"},
  "orbax": {"train/checkpoint.py"},
  "tensorflow": {"data"},
  "tensorflow_datasets": {"data"},
  "torch": {"convert"},
}


def imports(path):
  """Dotted names that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path):
  relative = path.relative_to(ROOT)
  return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
  here = part(path)
  for name in imports(path):
    words = name.split(".")
    if words[0] != "vq_jax" or here == "__init__" or len(words) == 1:
      continue
    there = words[1]
    if there == here:
      continue
    assert LAYERS[there] < LAYERS[here] or (
      # The lowest layers may use each other; siblings above may not.
      LAYERS[there] == LAYERS[here] <= 1
    ), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_third_party_fences(path):
  relative = str(path.relative_to(ROOT))
  for name in imports(path):
    fence = FENCES.get(name.split(".")[0])
    if fence is not None:
      assert part(path) in fence or relative in fence, f"{relative}: {name}"


def test_the_core_imports_no_framework():
  """Samplers and priors load without flax, orbax, TensorFlow or torch."""
  code = (
    "import sys, vq_jax.samplers.ancestral, vq_jax.priors.absorbing\n"
    "print([m for m in ('flax','orbax','tensorflow','torch','tensorboardX')"
    " if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
  "kind", ["data", "tokenizer", "nets", "priors", "samplers", "metrics"]
)
def test_every_plugin_imports(kind):
  assert plugins.available(kind)
  for name in plugins.available(kind):
    plugins.resolve(kind, name)


def test_an_unknown_plugin_lists_the_choices():
  with pytest.raises(ValueError, match=r"Did you mean 'ancestral'"):
    plugins.resolve("samplers", "ancestrall")


def test_a_misspelt_key_names_its_neighbour():
  section = {"name": "absorbing", "vocab_sise": 3}
  with pytest.raises(ValueError, match="Did you mean 'vocab_size'"):
    pipeline.build_prior(section)


def test_a_missing_key_is_named():
  with pytest.raises(ValueError, match=r"config.prior needs.*vocab_size"):
    pipeline.build_prior({"name": "absorbing"})


def test_a_section_without_name_lists_the_choices():
  with pytest.raises(ValueError, match=r"needs a name\. Choices: absorbing"):
    pipeline.build_prior({"vocab_size": 3})


def test_a_sampler_is_refused_before_it_runs():
  class NotMarkov:
    """Has a loss and nothing else."""

  with pytest.raises(ValueError, match="needs a prior with start, reverse"):
    pipeline.build_sampler({"name": "ancestral", "steps": 2}, NotMarkov())


def test_a_sampler_option_is_checked():
  prior = pipeline.build_prior({"name": "absorbing", "vocab_size": 3})
  with pytest.raises(ValueError, match="Did you mean 'steps'"):
    pipeline.build_sampler({"name": "ancestral", "step": 2}, prior)


def test_files_and_functions_stay_small():
  """DESIGN numbers: files <= 400 lines, functions <= 100, 3/4 within 20."""
  lengths = []
  for path in FILES:
    text = path.read_text()
    assert len(text.splitlines()) <= 400, path
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef):
        lengths.append(body_length(node))
        assert lengths[-1] <= 100, f"{path}: {node.name}"
  assert sum(n <= 20 for n in lengths) / len(lengths) >= 0.75


def body_length(node):
  """Lines of code: the docstring is not counted."""
  length = node.end_lineno - node.lineno + 1
  first = node.body[0]
  if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
    length -= first.end_lineno - first.lineno + 1
  return length
