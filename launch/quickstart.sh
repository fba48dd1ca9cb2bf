#!/usr/bin/env bash
# Trains, samples, evaluates and shows a whole system on the embedded emoji.
#
#   bash launch/quickstart.sh [DIRECTORY]    default: runs/quickstart
#
# Makes .venv, trains a VQGAN tokenizer and an absorbing-diffusion prior on the
# pictures that ship with the package, draws samples, measures them, and writes
# DIRECTORY/index.html. Run it again to go on where it stopped, or to be told
# that it is done. Nothing but Python packages is downloaded.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit ;;
  -*) echo "error: there is no option $1; see --help." >&2; exit 1 ;;
esac
run="$(realpath -m "${1:-$(dirname "$0")/../runs/quickstart}")"
source "$(dirname "$0")/env.sh"
prepare cpu
if [ "${ACCELERATOR:-cpu}" = cpu ] && [ "$(getconf _NPROCESSORS_ONLN)" -ge 2 ]; then
  # Two simulated devices share a batch: XLA leaves a core idle in small
  # convolutions. NPROC gives its thread pool room for both (docs/benchmarks.md).
  export JAX_NUM_CPU_DEVICES=2 NPROC=16
fi

vq() { # vq MODE CONFIG DIRECTORY [FLAGS]
  local mode="$1" config="$2" workdir="$3"
  shift 3
  echo "== $mode $(basename "$workdir")"
  python -m vq_jax.main --mode="$mode" --config="configs/$config.py" \
    --workdir="$workdir" "$@"
}
tokens="--config.data.path=$run/tokenizer/tokens"

if [ -e "$run/index.html" ]; then
  echo "Done before: open $run/index.html (delete $run to start anew)."
  exit
fi
vq train emoji32_vqgan "$run/tokenizer"
vq evaluate emoji32_vqgan "$run/tokenizer"
vq tokenize emoji32_vqgan "$run/tokenizer"
vq train emoji32_absorbing "$run/prior" "$tokens"
vq sample emoji32_absorbing "$run/prior" "$tokens"
vq evaluate emoji32_absorbing "$run/prior" "$tokens"
python -m vq_jax.report "$run"
echo "Open $run/index.html"
