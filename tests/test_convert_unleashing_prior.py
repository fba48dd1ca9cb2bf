"""Released priors of Unleashing Transformers: read, inferred, and refused.

tests/test_transformer_golden.py has the numbers that converted nets compute.
"""

import pathlib
import re

import jax
import numpy as np
import pytest

from vq_jax import plugins
from vq_jax.convert import _torch, unleashing

GOLDEN = pathlib.Path(__file__).parent / "golden"
HISTORIES = ("Lt_history", "Lt_count", "loss_history")


def golden(case):
  with np.load(GOLDEN / f"{case}.weights.npz") as file:
    return {key: value.astype(np.float32) for key, value in file.items()}


def absorbing(steps=256):
  """A file as `torch.save` of the authors' sampler leaves it."""
  net = golden("ul_transformer")
  state = {f"_denoise_fn.{key}": value for key, value in net.items()}
  return state | {name: np.zeros(steps + 1) for name in HISTORIES}


def autoregressive():
  net = golden("ul_transformer_ar")
  return {f"net.{key}": value for key, value in net.items()}


NET = dict(
  name="transformer",
  grid=(4, 4),
  layers=2,
  heads=4,
  mlp_ratio=4,
  head_bias=False,
)
KINDS = {
  "absorbing": (
    absorbing,
    dict(NET, vocab_size=32, width=64, causal=False),
    dict(
      name="absorbing",
      vocab_size=32,
      loss_weight="reweighted_released",
      time_steps=256,
    ),
  ),
  "autoregressive": (
    autoregressive,
    dict(NET, vocab_size=24, width=48, causal=True),
    dict(name="autoregressive", vocab_size=24),
  ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_a_net_and_its_prior(kind, monkeypatch):
  """Fields from shapes; the same weights as without the names in front."""
  state, net, prior = KINDS[kind]
  monkeypatch.setattr(_torch, "read", lambda path: state())
  config, params = unleashing.load("it.th", heads=4)
  assert config == {"net": net, "prior": prior}
  assert plugins.build("priors", "Prior", prior, "it").vocab_size
  inner = golden("ul_transformer" + "_ar" * (kind == "autoregressive"))
  bare = unleashing.transformer(inner, heads=4)
  assert bare[0] == net
  jax.tree.map(np.testing.assert_array_equal, bare[1], params["net"])
  for i in range(2):
    ours = params["net"]["blocks"]["attention"]["query"]["kernel"][i]
    theirs = inner[f"blocks.{i}.attn.query.weight"]
    np.testing.assert_array_equal(ours.T, theirs)
  np.testing.assert_array_equal(params["net"]["positions"], inner["pos_emb"][0])


def test_steps_are_the_tokens_where_no_history_tells(monkeypatch):
  monkeypatch.setattr(_torch, "read", lambda path: golden("ul_transformer"))
  config, _ = unleashing.load("it.th", heads=4)
  assert config["prior"]["time_steps"] == 16


@pytest.mark.parametrize(
  ("key", "change", "message"),
  [
    ("net.blocks.0.attn.gate.weight", (3,), "no place here"),
    ("Lt_history", (257,), "'Lt_history', which has no place"),
    ("net.start_tok", None, "lacks the tensor 'start'"),
    ("net.start_tok", (2, 1, 48), r"'start' of shape \(2, 48\)"),
    ("net.pos_emb", (2, 16, 48), r"'positions' of shape \(2, 16, 48\)"),
    ("net.pos_emb", (1, 15, 48), "15 tokens an image, which is no square"),
    ("net.tok_emb.weight", (26, 48), "26 tokens and 24 logits"),
    # A mask makes it an absorbing net, which has no causal mask.
    ("net.tok_emb.weight", (25, 48), "attn.mask', which has no place"),
    ("net.tok_emb.weight", None, "lacks the tensor 'tok_emb.weight'"),
    ("net.blocks.1.ln2.bias", None, r"/bias' of shape \(1, 48\)"),
    ("net.head.bias", (24,), "'net.head.bias', which has no place"),
    ("net.head.weight", None, "lacks the tensor 'net.head.weight'"),
  ],
)
def test_one_wrong_tensor_is_named(key, change, message):
  state = autoregressive()
  if change is None:
    del state[key]
  else:
    state[key] = np.zeros(change, np.float32)
  with pytest.raises(ValueError, match=message) as caught:
    unleashing.transformer(state, heads=4)
  assert "\n" not in str(caught.value)


def test_another_kind_of_file_is_refused(monkeypatch):
  state = {"ae.encoder.blocks.0.weight": np.zeros(3)}
  with pytest.raises(ValueError, match="of a tokenizer, not of a prior"):
    unleashing.transformer(state)
  monkeypatch.setattr(_torch, "read", lambda path: [1])
  with pytest.raises(ValueError, match=r"it\.th holds no state dict"):
    unleashing.load("it.th")


def test_every_rule_and_every_drop_is_of_use():
  keys = [*golden("ul_transformer_ar"), *HISTORIES]
  drops = unleashing.DROPS | unleashing.CAUSAL_DROPS
  for pattern in (*(r for r, _ in unleashing.CAUSAL_RULES), *drops.values()):
    assert any(re.fullmatch(pattern, key) for key in keys), pattern
