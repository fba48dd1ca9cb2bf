"""The papers' data sets: legal sections, that any tokenizer's config takes."""

import json
import pathlib

import pytest

from configs import _datasets, vqgan
from vq_jax import plugins
from vq_jax.data import _transforms

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "data.md"


@pytest.mark.parametrize("name", _datasets.SETS)
def test_a_set_is_a_legal_section_that_is_documented(name):
  config = json.loads(vqgan.get_config(f"ffhq,{name}").to_json())
  section = config["data"]
  assert section["size"] == config["tokenizer"]["image_size"]
  _transforms.make(section["size"], section.get("transform", {}))
  source = plugins.resolve("data", section.pop("name")).source
  plugins.check(source, section, "config.data", ("split",))
  assert f"`{name}`" in PAGE.read_text()


def test_an_unknown_set_lists_the_choices():
  with pytest.raises(ValueError, match=r"data set 'birds'.*cub, coco"):
    vqgan.get_config("ffhq,birds")
  assert vqgan.get_config("ffhq").data.name == "folder"
