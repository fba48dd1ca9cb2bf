#!/usr/bin/env bash
# The default test suite in a fresh environment. Arguments go to pytest:
#   bash launch/test.sh                  everything but `slow` and `gpu`
#   bash launch/test.sh -m slow          the long tests
#   bash launch/test.sh tests/test_x.py  one file
set -euo pipefail
if [ "${1:-}" = "--help" ]; then sed -n '2,5s/^# \{0,1\}//p' "$0"; exit; fi
source "$(dirname "$0")/env.sh"
prepare "cpu,test,text,data"
export NPROC=16 JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
ruff check .
ruff format --check .
# What is compiled runs once or twice, and is not worth compiling well.
export XLA_FLAGS="--xla_backend_optimization_level=0 ${XLA_FLAGS:-}"
# Two processes: compiling, which is most of the work, uses one core. The longest
# file comes first (tests/conftest.py).
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
