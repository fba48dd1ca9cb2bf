"""Metrics at full size, and on two hosts.

Each runs in processes of its own: what they need is measured.
"""

import json
import os
import socket
import subprocess
import sys

import pytest

FULL_SIZE = """
import json, os, resource, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import numpy as np
from vq_jax.metrics import frechet, prdc
metrics, d, n = {"frechet": frechet, "prdc": prdc}, 2048, 50_000
rng = np.random.default_rng(0)
mix = rng.normal(size=(64, d)).astype(np.float32)  # Features are correlated.
metric = metrics[sys.argv[1]]
state, spent = metric.init(), 0.0
for i in range(n // 500):
  batch = {}
  for side, shift in (("real", 0.0), ("fake", 0.3)):
    seeds = rng.normal(size=(500, 64)).astype(np.float32) + shift
    x = seeds @ mix
    x += rng.normal(size=x.shape).astype(np.float32)
    batch[side + "_features"] = x
  start = time.monotonic()
  state = metric.update(state, batch)
  spent += time.monotonic() - start
start = time.monotonic()
numbers = metric.compute(state)
spent += time.monotonic() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(numbers | {"seconds": spent, "gibibytes": peak}))
"""

HOSTS = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from vq_jax.metrics import frechet, inception_score, prdc
rng = np.random.default_rng(0)
whole = {
  "real_features": rng.normal(size=(32, 4)).astype(np.float32),
  "fake_features": rng.normal(size=(32, 4)).astype(np.float32),
  "fake_logits": rng.normal(size=(32, 5)).astype(np.float32),
  "mask": np.arange(32) % 7 > 0,
  "index": np.arange(32, dtype=np.int32)[::-1].copy(),
}
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("b",)), P("b"))
half = slice(16 * int(sys.argv[2]), 16 * int(sys.argv[2]) + 16)
split = {
  key: jax.make_array_from_process_local_data(sharding, x[half])
  for key, x in whole.items()
}
assert not split["mask"].is_fully_addressable
numbers = []
for batch in (whole, split):
  numbers.append({})
  for metric in (frechet, inception_score, prdc):
    numbers[-1] |= metric.compute(metric.update(metric.init(), batch))
print(json.dumps(numbers))
"""


def start(code, *words):
  """A process of its own, compiled in full whatever the suite asks for."""
  env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
  return subprocess.Popen(
    [sys.executable, "-c", code, *words],
    env=env,
    stdout=subprocess.PIPE,
    text=True,
  )


def result(process, timeout):
  out, _ = process.communicate(timeout=timeout)
  assert process.returncode == 0
  return json.loads(out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frechet", "prdc"])
def test_full_size_fits_two_cores_and_four_gigabytes(name):
  """50,000 vectors of 2,048 numbers: five minutes. Needs a quiet machine."""
  found = result(start(FULL_SIZE, name), 900)
  print(found)
  assert found["seconds"] < 300 and found["gibibytes"] < 4


@pytest.mark.slow
def test_two_hosts_have_the_number_of_one():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  both = [start(HOSTS, address, str(i)) for i in range(2)]
  for whole, split in [result(process, 200) for process in both]:
    assert whole == split
