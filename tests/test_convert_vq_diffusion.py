"""Released VQ-Diffusion priors: what is read, inferred, and refused.

tests/test_transformer_golden.py has the numbers that converted nets compute.
"""

import pathlib
import sys

import jax
import numpy as np
import pytest

from vq_jax import plugins, weights
from vq_jax.convert import _keys, _torch, vq_diffusion

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(case):
  with np.load(GOLDEN / f"{case}.weights.npz") as file:
    return {key: value.astype(np.float32) for key, value in file.items()}


@pytest.fixture
def whole():
  """A class-conditional diffusion model: its net, tables and histories."""
  return golden("vqd_train3")


def convert(state, **options):
  return vq_diffusion.transformer(
    state, **{"heads": 4, "grid": (4, 4)} | options
  )


def same(tree, other):
  return jax.tree.all(jax.tree.map(np.array_equal, tree, other))


def test_shapes_tell_the_fields(whole):
  section, _ = convert(whole)
  assert section == {
    "name": "transformer",
    "vocab_size": 12,
    "grid": (4, 4),
    "layers": 2,
    "width": 32,
    "heads": 4,
    "activation": "sigmoid",
    "mlp": "conv",
    "mlp_ratio": 2,
    "position": "row_column",
    "time": "learnt",
    "time_steps": 100,
    "labels": 5,
    "null_label": False,
  }


def test_layers_are_transposed_and_stacked(whole):
  _, params = convert(whole)
  for i in range(2):
    block = jax.tree.map(lambda x, i=i: x[i], params["blocks"])
    key = f"transformer.blocks.{i}"
    query = whole[f"{key}.attn.query.weight"]
    np.testing.assert_array_equal(
      block["attention"]["query"]["kernel"].T, query
    )
    up = whole[f"{key}.mlp.conv1.weight"]  # [out in h w]
    ours = np.einsum("hwio->oihw", block["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(ours, up)


@pytest.mark.parametrize("inner", [0, 1, 2])
def test_names_of_net_model_and_system_are_read_alike(whole, inner):
  net = {
    key.removeprefix("transformer."): value
    for key, value in whole.items()
    if key.startswith("transformer.")
  }
  system = {f"transformer.{key}": value for key, value in whole.items()}
  system["content_codec.enc.encoder.conv_in.bias"] = np.zeros(3)
  system["transformer.condition_emb.ln_final.weight"] = np.zeros(3)
  found = convert((net, whole, system)[inner])
  assert found[0] == convert(whole)[0]
  assert same(found[1], convert(whole)[1])


def test_a_row_for_no_class_is_not_a_class(whole):
  section, _ = convert(whole, null_label=True)
  assert (section["labels"], section["null_label"]) == (4, True)
  for i in range(2):
    key = f"transformer.blocks.{i}.ln2.emb.weight"
    whole[key] = np.zeros((1001, 32), np.float32)
  section, _ = convert(whole)
  assert (section["labels"], section["null_label"]) == (1000, True)


def test_cross_attention_tells_text_and_grid():
  state = golden("vqd_net_text")
  section, params = convert(state, grid=None)
  assert (section["grid"], section["text_dim"]) == ((4, 4), 32)
  assert "labels" not in section
  assert params["blocks"]["cross_attention"]["key"]["kernel"].shape[1:] == (
    32,
    64,
  )
  with pytest.raises(ValueError, match=r"16 tokens, not \(8, 8\)"):
    convert(state, grid=(8, 8))
  with pytest.raises(ValueError, match="has no classes"):
    convert(state, null_label=True)


def test_other_nets_do_not_tell_their_grid(whole):
  with pytest.raises(ValueError, match="does not tell its grid"):
    convert(whole, grid=None)


FAULTS = {
  "extra": ("blocks.0.attn.gate.weight", None, "no place here"),
  "outside": ("log_magic", None, "no place here"),
  "missing": ("to_logits.0.bias", ..., "lacks the tensor 'norm/bias'"),
  "layer": (
    "blocks.0.attn.key.bias",
    ...,
    "lacks layer 0 of the tensor 'blocks/attention/key/bias'",
  ),
  "needed": (
    "to_logits.1.weight",
    ...,
    "lacks the tensor 'to_logits.1.weight'",
  ),
  "shape": (
    "to_logits.1.bias",
    (13,),
    r"'head/bias' of shape \(13,\), this config needs \(12,\)",
  ),
  "ragged": (
    "blocks.1.ln2.linear.bias",
    (65,),
    r"'blocks/mlp_norm/modulation/bias' of shape \(65,\) in layer 1",
  ),
  "rank": (
    "to_logits.1.weight",
    (12, 32, 1),
    "'.*to_logits.1.weight' of shape",
  ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_tensor_is_named(whole, fault):
  """An extra key, a missing one, a wrong shape: a sentence that names it."""
  key, change, message = FAULTS[fault]
  key = key if fault == "outside" else f"transformer.{key}"
  if change is ...:
    del whole[key]
  else:
    whole[key] = np.zeros(change or (3,), np.float32)
  with pytest.raises(ValueError, match=message) as caught:
    convert(whole)
  assert fault not in ("extra", "outside") or repr(key) in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_tensor_that_comes_twice_is_refused():
  rules = [(r"\w+\.(weight|bias)", r"head/\1")]
  state = {"a.bias": np.zeros(2), "b.bias": np.zeros(2)}
  with pytest.raises(ValueError, match=r"'head/bias' twice, .* 'b\.bias'"):
    _keys.tree(state, rules, {}, {}, "It")


def test_every_rule_and_every_drop_is_of_use(whole):
  """Each matches some key of the four kinds of released models."""
  kinds = ("text", "class", "class_null", "uncond")
  keys = [
    f"transformer.{k}" for kind in kinds for k in golden(f"vqd_net_{kind}")
  ]
  keys += [*whole, "condition_emb.ln_final.bias", "empty_text_embed"]
  keys += ["content_codec.enc.quant_conv.bias"]
  rules = _keys.prefixed("transformer.", vq_diffusion.RULES)
  for pattern in (*(r for r, _ in rules), *vq_diffusion.DROPS.values()):
    found = [key for key in keys if _keys.re.fullmatch(pattern, key)]
    unused = r"ln1(_1)?\\.\(weight"  # Norms in front of attention always adapt.
    assert found or _keys.re.search(unused, pattern), pattern


def test_load_prefers_averages_and_keeps_the_learnt_null(whole, monkeypatch):
  null = np.arange(6.0).reshape(2, 3)
  state = golden("vqd_net_text")
  ema = {f"transformer.{key}": value for key, value in state.items()}
  ema["empty_text_embed"] = null  # float64, as released.
  model = {f"transformer.{key}": 2 * value for key, value in ema.items()}
  content = {"model": model, "ema": ema, "last_epoch": 3}
  monkeypatch.setattr(_torch, "read", lambda path: content)
  config, params = vq_diffusion.load("it.pth", heads=4)
  assert config["prior"] == {
    "name": "vq_diffusion",
    "vocab_size": 20,
    "time_steps": 100,
  }
  prior = plugins.build("priors", "Prior", config["prior"], "it")
  assert prior.time_steps == 100
  assert same(params["net"], convert(state)[1])
  assert params["null"].dtype == np.float32
  np.testing.assert_array_equal(params["null"], null)
  del content["ema"]
  _, raw = vq_diffusion.load("it.pth", heads=4)
  np.testing.assert_array_equal(raw["null"], 2 * null)
  monkeypatch.setattr(_torch, "read", lambda path: {"ema": whole})
  _, labelled = vq_diffusion.load("it.pth", heads=4, grid=(4, 4))
  assert labelled.keys() == {"net"}
  monkeypatch.setattr(_torch, "read", lambda path: [1])
  with pytest.raises(ValueError, match=r"it\.pth holds no state dict"):
    vq_diffusion.load("it.pth")


def test_what_is_converted_can_be_saved(whole, tmp_path):
  section, params = convert(whole)
  weights.save_part(tmp_path, section, params)
  section, again = weights.load_part(tmp_path)
  assert plugins.build("nets", "Net", section, "it") == plugins.build(
    "nets", "Net", convert(whole)[0], "it"
  )
  assert same(again, params)


def test_a_missing_file_or_torch_is_said(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match=r"no checkpoint .*it\.pth"):
    _torch.read(tmp_path / "it.pth")
  (tmp_path / "it.pth").touch()
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ModuleNotFoundError, match="pip install torch"):
    _torch.read(tmp_path / "it.pth")


def test_torch_files_are_read_as_arrays(tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "it.pth"
  tensor = torch.arange(6.0).reshape(2, 3).T  # Not contiguous.
  state = {"half": tensor.bfloat16(), "double": tensor.double(), "epoch": 7}
  state["ids"] = torch.arange(3)
  torch.save({"model": state}, path)
  found = _torch.read(path)["model"]
  for name in ("half", "double"):
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], [[0, 3], [1, 4], [2, 5]])
  assert found["epoch"] == 7
  np.testing.assert_array_equal(found["ids"], [0, 1, 2])


def test_torch_files_with_code_or_cut_short_are_refused(tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "it.pth"
  torch.save({"hook": pathlib.Path}, path)
  with pytest.raises(ValueError, match="cannot be read as weights"):
    _torch.read(path)
  torch.save({"x": torch.zeros(1000)}, path)
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(ValueError, match="must be concatenated"):
    _torch.read(path)
