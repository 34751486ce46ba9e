# shellcheck shell=bash
# Sourced by the other scripts, in the repository's root: find Python, make a virtual environment, install into it.
# Works with spaces in paths, is safe to repeat, and does nothing when nothing has changed.

fail() {
  printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
  exit "${2:-1}"
}

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  fail "no Python 3.11, 3.12 or 3.13 found (tried python3, python3.13, python3.12, python3.11); install one and start again"
}

# What an installation depends on: this folder's path is part of it, because a moved folder needs new command scripts.
fingerprint() {
  { pwd -P; printf '%s\n' "$1"; cat pyproject.toml constraints.txt; } | cksum
}

# make_venv DIRECTORY REQUIREMENT: install REQUIREMENT (such as ".[test]") with constraints.txt; the interpreter is
# DIRECTORY/bin/python. Only a folder that this function has made is ever rebuilt.
make_venv() {
  local venv="$1" requirement="$2" base mark="$1/.marl-bench"
  # Settings of the surroundings that would lead pip or Python elsewhere.
  unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX
  export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
  if [ -f "$mark" ] && [ "$(cat -- "$mark")" = "$(fingerprint "$requirement")" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    return
  fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if [ -e "$venv" ] && [ ! -f "$mark" ]; then
      fail "$PWD/$venv is not a usable virtual environment and was not made by this script; move it away and start again"
    fi
    base="$(find_python)" || exit
    printf 'Making %s with %s\n' "$venv" "$base"
    rm -rf -- "$venv"
    mkdir -- "$venv"
    : >"$mark"
    "$base" -m venv "$venv" || fail "$base cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"
  fi
  printf 'Installing %s into %s (a minute or more, about 300 MB)\n' "$requirement" "$venv"
  "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable "$requirement" ||
    fail "the installation failed; what pip says above names the reason. Start again to go on"
  fingerprint "$requirement" >"$mark"
}
