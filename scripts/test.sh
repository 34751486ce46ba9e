#!/usr/bin/env bash
# Install into .venv-test and run the default tests on the CPU; the last line is pytest's own.
# Takes no argument, works from any directory. Compiled programs are kept in .jax_cache for the next call.
set -euo pipefail

CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/make_venv.sh
[ "$#" -eq 0 ] || fail "takes no argument" 2

make_venv .venv-test '.[test]'

export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$PWD/.jax_cache"
# Thousands of small programs run once: compile them quickly rather than well. `XLA_FLAGS= scripts/test.sh` compiles as users do.
export XLA_FLAGS="${XLA_FLAGS---xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false}"
workers="$(.venv-test/bin/python -c 'from marl_bench.runtime.devices import usable_cores; print(min(4, usable_cores()))')"
# In the order of tests/conftest.py (the longest files first), not in that of their numbers of tests.
exec .venv-test/bin/python -m pytest -q -n "$workers" --dist loadfile --no-loadscope-reorder
