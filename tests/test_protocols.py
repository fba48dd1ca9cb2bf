"""Protocols: names of the papers' numbers, and what may not bear them."""

import inspect

import pytest

from configs import _datasets
from vq_jax import plugins
from vq_jax.train import compare, protocols, reference, row

NAMES = sorted(protocols.PROTOCOLS)


def config(name="", data=None, **sample):
  return {
    "data": data or _datasets.section("imagenet"),
    "sample": {"count": 128, **sample},
    "sampler": {"name": "ancestral", "steps": 8, "grid": [1, 0.5]},
    "evaluate": {"features": "emoji", "protocol": name},
  }


def test_the_issue_names_are_there():
  assert NAMES == ["lcmd_imagenet", "ut_ffhq", "vqd_coco", "vqd_imagenet"]


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_decides_samples_features_and_filter(name, capsys):
  protocol, given = protocols.PROTOCOLS[name], config(name)
  found = protocols.applied(given)
  assert found["sample"]["count"] == protocol.samples >= 30_000
  assert protocols.of(found) == protocol
  networks = protocols.networks(found["evaluate"])
  assert networks == list(protocol.metrics) and networks[0] == "inception"
  assert given["sample"]["count"] == 128  # It was copied.
  assert f"protocol {name}" in capsys.readouterr().out
  data = protocols.dataset(found)
  assert data["transform"] == {"resample": protocol.resample}
  assert given["data"]["transform"] == _datasets.CUT
  module = plugins.resolve("data", data.pop("name"))
  plugins.check(module.source, data, "config.data", ("split",))
  inspect.signature(module.source).bind("train", **data)


@pytest.mark.parametrize(
  ("set_", "name"),
  [
    ("ffhq", "ut_ffhq"),
    ("imagenet", "vqd_imagenet"),
    ("coco", "vqd_coco"),
    ("imagenet", "lcmd_imagenet"),
  ],
)
def test_protocols_fit_the_data_sets_of_the_papers(set_, name):
  data = protocols.dataset(config(name, _datasets.section(set_)))
  assert data["size"] == protocols.PROTOCOLS[name].size == 256


def test_without_a_protocol_the_config_decides():
  given = config()
  assert protocols.applied(given) is given
  common = ("frechet", "prdc")
  assert protocols.of(given) == protocols.Protocol({"emoji": common})
  assert protocols.dataset(given) == given["data"]
  given["evaluate"]["features"] = "inception,clip"
  found = protocols.of(given).metrics
  assert found["inception"] == ("frechet", "kid", "inception_score", "prdc")
  assert found["clip"] == ("clip_score", "cmmd")
  given["evaluate"]["metrics"] = ["giqa_gmm"]
  with pytest.raises(ValueError, match=r"metrics are of one .* names 2"):
    protocols.of(given)
  given["evaluate"]["features"] = "inception"
  assert protocols.of(given).metrics == {"inception": ("giqa_gmm",)}


def test_a_paper_s_protocol_measures_what_its_tables_hold():
  """Counts of table 1 and 2; table 1 and figure 2; ImageNet's; table 3."""
  found = {
    name: dict(protocol.metrics)
    for name, protocol in protocols.PROTOCOLS.items()
  }
  assert found == {
    "ut_ffhq": {"inception": ("frechet", "prdc")},
    "vqd_imagenet": {"inception": ("frechet",)},
    "vqd_coco": {
      "inception": ("frechet", "giqa_gmm"),
      "clip": ("clip_score",),
    },
    "lcmd_imagenet": {"inception": ("frechet", "inception_score", "prdc")},
  }


def test_what_is_not_that_protocol_may_not_be_called_so():
  """Counts, sizes and references, each with the number that shows it."""
  with pytest.raises(ValueError, match="Did you mean 'ut_ffhq'"):
    protocols.applied(config("ut_fhq"))
  small = {**_datasets.section("imagenet"), "size": 64}
  with pytest.raises(ValueError, match=r"256 pixels a side, .* is 64"):
    protocols.dataset(config("vqd_imagenet", small))
  for count in (49_999, 50_001):
    with pytest.raises(ValueError, match=f"50000 samples, and x has {count}"):
      protocols.check_samples(config("ut_ffhq"), count, "x")
  protocols.check_samples(config("ut_ffhq"), 50_000, "x")
  protocols.check_samples(config(), 4, "x")
  real = reference.Reference({"count": 1000}, None, None)
  protocol, section = protocols.PROTOCOLS["ut_ffhq"], {"protocol": "ut_ffhq"}
  with pytest.raises(ValueError, match=r"66500 images; .*'train'.* has 1000"):
    compare.check_reference(section, protocol, real)


def test_a_row_says_how_samples_were_drawn():
  given = config(seed=3, guidance=2.0, temperature=0.9, top_p=0.8, top_k=None)
  assert row.drawing(given) == {
    "samples": 128,
    "sampler": "ancestral",
    "sampler_steps": 8,
    "sampler_grid": "[1, 0.5]",
    "seed": 3,
    "guidance": 2.0,
    "temperature": 0.9,
    "top_p": 0.8,
  }
