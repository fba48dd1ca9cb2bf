"""What has to agree before two numbers may be compared, by name.

config.evaluate.protocol is a name of PROTOCOLS. It then says how many samples
are drawn, what they are compared with, and by which metrics of which networks;
the dataset is that of config.data. Empty, all of that is as the config says,
and the numbers compare with those of the same config alone.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vq_jax import plugins
from vq_jax.data import tokens

Config = Mapping[str, Any]


class Protocol(NamedTuple):
  """How samples are compared.

  Attributes:
    metrics: {file of vq_jax/features: files of vq_jax/metrics}.
    samples: how many there are; 0 is any number.
    split: of the data, what samples are compared with.
    limit: the first so many images of the split; 0 is all.
    images: how many that must be; 0 is any number.
    kept: the first so many of them have their features kept, for metrics that
      compare examples (precision, recall, density, coverage).
    nearest_k: which neighbour a ball of those metrics reaches to.
    size: pixels a side; 0 is that of the data.
    resample: how reference images are scaled to that, the middle square of
      each; empty is what the data say.
  """

  metrics: Mapping[str, Sequence[str]]
  samples: int = 0
  split: str = "train"
  limit: int = 0
  images: int = 0
  kept: int = 50_000
  nearest_k: int = 3
  size: int = 0
  resample: str = ""


# What is measured without a protocol, by networks known for other metrics,
METRICS = {
  "inception": ("frechet", "kid", "inception_score", "prdc"),
  "clip": ("clip_score", "cmmd"),
}
COMMON = ("frechet", "prdc")  # and by all others.

# docs/evaluation.md says which of this the papers state and which they do not.
PROTOCOLS = {
  "ut_ffhq": Protocol(
    {"inception": ("frechet", "prdc")},
    samples=50_000,
    images=66_500,
    size=256,
    resample="bilinear",
  ),
  "vqd_imagenet": Protocol(
    {"inception": ("frechet",)},
    samples=50_000,
    images=1_281_167,
    size=256,
    resample="bicubic",
  ),
  "vqd_coco": Protocol(
    {"inception": ("frechet", "giqa_gmm"), "clip": ("clip_score",)},
    samples=30_000,
    split="validation",
    limit=30_000,
    images=30_000,
    size=256,
    resample="bicubic",
  ),
  "lcmd_imagenet": Protocol(
    {"inception": ("frechet", "inception_score", "prdc")},
    samples=50_000,
    images=1_281_167,
    size=256,
    resample="bilinear",
  ),
}


def of(config: Config) -> Protocol:
  """The protocol of config.evaluate.

  Raises:
    ValueError: there is none of that name, or metrics of several networks.
  """
  section = config["evaluate"]
  name = section.get("protocol", "")
  if name:
    if name not in PROTOCOLS:
      raise ValueError(plugins.unknown(name, PROTOCOLS, "There is no protocol"))
    return PROTOCOLS[name]
  names, asked = networks(section), tuple(section.get("metrics", ()))
  if asked and len(names) > 1:
    raise ValueError(
      "config.evaluate.metrics are of one network, and config.evaluate.features"
      f" names {len(names)}."
    )
  return Protocol({key: asked or METRICS.get(key, COMMON) for key in names})


def networks(section: Mapping[str, Any]) -> list[str]:
  """The names in config.evaluate.features: one, or several as a,b."""
  return [name for name in section["features"].split(",") if name]


def applied(config: Config) -> Config:
  """The config with the samples and the features of its protocol."""
  name = config.get("evaluate", {}).get("protocol", "")
  if not name:
    return config
  protocol = of(config)
  print(f"protocol {name}: {protocol}")
  names = ",".join(protocol.metrics)
  config = _with(config, "evaluate", features=names)
  if "sample" in config:
    config = _with(config, "sample", count=protocol.samples)
  return config


def dataset(config: Config) -> dict[str, Any]:
  """The section of the pictures: config.data, or what its tokens are of.

  With the size and the filter of the protocol.

  Raises:
    ValueError: the data have another size.
    FileNotFoundError: the tokens are missing.
  """
  protocol, data = of(config), config["data"]
  if data["name"] == "tokens":
    data = tokens.read_manifest(data["path"])["data"]
  data = dict(data)
  if protocol.size and data.get("size") != protocol.size:
    raise ValueError(
      f"The protocol {config['evaluate']['protocol']!r} compares images of"
      f" {protocol.size} pixels a side, and config.data.size is"
      f" {data.get('size', 'not set')}."
    )
  if protocol.resample:
    data["transform"] = {"resample": protocol.resample}
  return data


def check_samples(config: Config, count: int, where: str) -> None:
  """ValueError unless `count` images, from `where`, are what is compared."""
  protocol = of(config)
  least = protocol.nearest_k + 1
  if count < least:
    raise ValueError(
      f"{where} has {count} images; {least} are the least that can be compared"
      f" by their neighbours (k = {protocol.nearest_k})."
    )
  if protocol.samples and count != protocol.samples:
    raise ValueError(
      f"The protocol {config['evaluate']['protocol']!r} compares"
      f" {protocol.samples} samples, and {where} has {count}."
    )


def _with(config: Config, name: str, **values: Any) -> Config:
  """The config with other values in one section."""
  config = copy.copy(config)
  config[name] = copy.copy(config[name])
  config[name].update(values)
  return config
