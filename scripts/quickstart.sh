#!/usr/bin/env bash
# From a fresh clone to a reproduced result: install into .venv, then train the smallest version of the main study.
# Takes no argument, works from any directory; a second call goes on where the first one stopped.
set -euo pipefail

CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/make_venv.sh
[ "$#" -eq 0 ] || fail "takes no argument" 2

make_venv .venv .

out=runs/quickstart
.venv/bin/python -m marl_bench reproduce exploration_collapse --scale smoke --out "$out" --resume

printf '\nFigures and tables:\n'
find "$PWD/$out" -type f \( -name '*.png' -o -name '*.md' -o -name '*.csv' \) -not -path '*/wandb/*' | sort
