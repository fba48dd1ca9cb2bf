# Sourced by the other scripts: makes .venv once and enters it.
#   prepare EXTRAS    such as "cpu" or "cpu,test"
# ACCELERATOR=gpu or tpu instead of cpu installs jax for that device.

prepare() {
  local extras="${1/cpu/${ACCELERATOR:-cpu}}" python stamp
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || return 1
  for python in python3.12 python3.11 python3; do
    if command -v "$python" > /dev/null && "$python" -c \
      'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
      2> /dev/null; then
      break
    fi
    python=""
  done
  if [ -z "$python" ]; then
    echo "error: Python 3.11 or 3.12 is needed and was not found." >&2
    return 1
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv || return 1
  stamp=".venv/installed-$(cat setup.py <(echo "$extras") | cksum | cut -d' ' -f1)"
  if [ ! -e "$stamp" ]; then
    echo "Installing vq_jax[$extras] into .venv ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --editable ".[$extras]" || return 1
    touch "$stamp"
  fi
  # What one run compiles, the next one loads.
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.jax_cache}"
  export PATH="$PWD/.venv/bin:$PATH"
}
