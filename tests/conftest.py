"""Eight simulated devices, set up before any backend is touched."""

import os

# XLA's CPU thread pool has max(cores, devices) threads, and collectives that
# wait for each other can use all of them up: give it twice the devices.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_collection_modifyitems(items):
  """The longest file first, or one process ends up alone with it."""
  items.sort(key=lambda item: item.path.stem != "test_readme")


@pytest.fixture
def key():
  return jax.random.key(0)
