"""Package metadata; tool settings are in pyproject.toml."""

import pathlib

import setuptools

CORE = [
  "absl-py>=2.1",
  "clu>=0.0.12",
  "einops>=0.8",
  "flax>=0.12.8,<0.14",
  "jax>=0.10.2,<0.12",
  "matplotlib>=3.9",
  "ml_collections>=1.0",
  "numpy>=2.0",
  "optax>=0.2.5",
  "orbax-checkpoint>=0.11.20",
  "pillow>=11.0",
  "safetensors>=0.5",
  "tensorboardX>=2.6.4",
  "tqdm>=4.66",
]

setuptools.setup(
  name="vq_jax",
  version="0.1.0",
  description="Vector-quantized image generation in JAX.",
  long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE", "vq_jax/data/emoji/NOTICE"],
  packages=setuptools.find_packages(include=["vq_jax", "vq_jax.*"]),
  package_data={
    "vq_jax": ["py.typed"],
    "vq_jax.data.emoji": ["sheets/*", "licences/*", "NOTICE", "*.json"],
    "vq_jax.features": ["*.safetensors"],
  },
  python_requires=">=3.11,<3.13",
  install_requires=CORE,
  extras_require={
    "cpu": [],
    "gpu": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "text": ["tokenizers>=0.20", "ftfy>=6.2"],
    "data": ["tensorflow-datasets", "importlib_resources"],
    "test": ["pytest>=8", "pytest-xdist", "ruff", "tensorboard"],
    "convert": ["torch"],
  },
)
