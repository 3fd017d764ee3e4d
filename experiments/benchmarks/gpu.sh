#!/usr/bin/env bash
# The table of speed on one CUDA GPU, in one command of at most 8 minutes:
#
#   experiments/benchmarks/gpu.sh OUT [--quick]
#
# Needs jax with CUDA, flax, optax, numpy, pyarrow, array_record and ml_collections; PyTorch with CUDA,
# faiss-cpu and usearch for the peers. Grain, duckdb and ibis are not imported. PYTHON names the interpreter. The most
# wanted parts come first; each has a limit of its own, and one that fails leaves the rest alone.
# Records: OUT/*.json. Without a GPU it runs too, on the CPU: use --quick then.
set -uo pipefail
out=$(mkdir -p "${1:?usage: gpu.sh OUT [--quick]}" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
shift
python=${PYTHON:-python3}
# PyTorch and jax share the card, so jax must not take all of it; what is compiled once is kept.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1
flags=${XLA_FLAGS:-}
deadline=$((SECONDS + 475))
failed=()

part() { # NAME LIMIT MODULE [FLAGS]
  local name=$1 limit=$2 module=$3 left=$((deadline - SECONDS))
  shift 3
  if ((left < 5)); then
    echo "== $name: no time left" && failed+=("$name")
    return
  fi
  echo "== $name"
  timeout $((left < limit ? left : limit)) "$python" -m "experiments.benchmarks.$module" \
    --json="$out/$name.json" "$@" || { echo "== $name: failed" && failed+=("$name"); }
}

"$python" -c 'import jax; print(jax.__version__, jax.devices())'
part scatter 60 scatter "$@"
part train_step 240 train_step --rounds=7 "$@"
part roofline 60 roofline "$@"
part vmap_sweep 90 vmap_sweep --rounds=5 "$@"
part score 120 score --parts corpus --items 1000000 --rounds=3 "$@"
XLA_FLAGS="$flags --xla_gpu_deterministic_ops=true" \
  part train_step_deterministic 150 train_step --no_peers --tables adagrad --rounds=5 "$@"
part train_step_bfloat16 150 train_step --no_peers --tables adagrad --dtype=bfloat16 --rounds=5 "$@"
part roofline_bfloat16 60 roofline --dtype=bfloat16 "$@"
XLA_FLAGS="$flags --xla_gpu_deterministic_ops=true" part scatter_deterministic 60 scatter "$@"

if ((${#failed[@]})); then
  echo "not measured: ${failed[*]}"
  exit 1
fi
