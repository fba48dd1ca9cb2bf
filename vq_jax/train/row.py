"""One row of results: numbers, and all that they depend on."""

import pathlib
from collections.abc import Mapping
from typing import Any

from vq_jax import weights
from vq_jax.revision import revision

Config = Mapping[str, Any]
# Keys of config.sample that change what is drawn; top_p is the truncation.
TOLD = (
  "seed",
  "guidance",
  "guidance_interval",
  "guidance_ramp",
  "temperature",
  "top_p",
  "top_k",
  "canvas",
)


def drawing(config: Config) -> dict[str, Any]:
  """How samples of a prior are drawn: numbers and words, no lists."""
  section = config["sample"]
  told = {"samples": section["count"], "sampler": config["sampler"]["name"]}
  told |= {key: section[key] for key in TOLD if key in section}
  told |= {
    f"sampler_{key}": value
    for key, value in config["sampler"].items()
    if key != "name"
  }
  return {
    key: str(value) if isinstance(value, (list, tuple)) else value
    for key, value in told.items()
    if value is not None
  }


def write(workdir: pathlib.Path, numbers: Mapping[str, Any]) -> None:
  """Writes metrics.json, with the revision of the code, and prints it."""
  row = {**numbers, "revision": revision()}
  weights.write_json(workdir / "metrics.json", row)
  width = max(map(len, row))
  for name, value in row.items():
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    print(f"{name:<{width}}  {text}")
