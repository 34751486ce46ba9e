"""What importing does (nothing), and what the package needs (what it declares)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "marl_bench"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run_python(program: str, folder: Path) -> list[str]:
    """Run a program in a fresh interpreter, in `folder`, and return the lines it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    environment.update(PYTHONDONTWRITEBYTECODE="1", JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- importing -----------------------------------------------------------------------------------------

WATCH = """
import os, sys

seen = []

def watch(event, args):
    writes = event == "open" and args[0] != os.devnull and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(("socket.", "subprocess.", "os.mkdir", "os.rename", "os.remove", "os.system")):
        seen.append((event, str(args[0])))

sys.addaudithook(watch)
"""

IMPORT = (
    WATCH
    + """
import marl_bench
marl_bench.environments(), marl_bench.learners(), dir(marl_bench)
heavy = ("jax", "jaxlib", "flax", "jumanji", "jaxmarl", "gymnasium", "pettingzoo", "PIL", "wandb", "pandas", "pyarrow", "matplotlib", "scipy", "numpy")
print([name for name in heavy if name in sys.modules])
print(seen)
"""
)


def test_importing_the_package_does_nothing(tmp_path):
    assert run_python(IMPORT, tmp_path) == ["[]", "[]"]
    assert list(tmp_path.iterdir()) == []


def test_the_watch_of_these_tests_sees_files_and_sockets(tmp_path):
    program = WATCH + "import socket; open('x', 'w').close(); socket.socket().close(); print([e for e, _ in seen])"
    assert run_python(program, tmp_path) == ["['open', 'socket.__new__']"]


NO_BACKEND = (
    WATCH
    + """
import importlib, pkgutil
import marl_bench

PEERS = ("jumanji", "jaxmarl", "lbforaging", "mpe2", "gymnasium", "pettingzoo")
modules = [m.name for m in pkgutil.walk_packages(marl_bench.__path__, "marl_bench.") if m.name != "marl_bench.__main__"]
reports = [name for name in modules if name.startswith(("marl_bench.report", "marl_bench.experiments.papers."))]
for name in (name for name in modules if name not in reports):
    importlib.import_module(name)
made = [marl_bench.make(name) for name in marl_bench.environments() if name in OURS]
made += [marl_bench.make_learner(name) for name in marl_bench.learners() if name in OURS]
print([name for name in PEERS + ("wandb", "matplotlib") if name in sys.modules], seen)

for name in reports:
    importlib.import_module(name)
print([name for name in PEERS + ("wandb",) if name in sys.modules])

import jax

jax.config.update("jax_num_cpu_devices", 3)  # raises RuntimeError once a backend runs
print(len(made), len(reports) > 5, len(jax.devices()))
"""
)


def test_importing_any_module_or_making_anything_starts_no_backend(tmp_path):
    from marl_bench.registry import _BUILT_IN

    ours = [name for table in _BUILT_IN.values() for name in table]
    lines = run_python(f"OURS = {ours!r}\n{NO_BACKEND}", tmp_path)
    assert lines == ["[] []", "[]", f"{len(ours)} True 3"]


BACKEND = """
import jax
jax.numpy.zeros(1)
try:
    jax.config.update("jax_num_cpu_devices", 3)
except RuntimeError:
    print("too late")
"""


def test_a_running_backend_would_be_noticed(tmp_path):
    assert run_python(BACKEND, tmp_path) == ["too late"]


# --- dependencies --------------------------------------------------------------------------------------

DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow"}


def imported_packages() -> set[str]:
    """Names of third-party distributions that some module of the package imports, wherever in the module."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    found -= set(sys.stdlib_module_names) | {"marl_bench"}
    return {str(DISTRIBUTIONS.get(name, name)) for name in found}


def name_of(requirement: str) -> str:
    """Normalised name of a requirement such as `jax[cuda12]>=0.10.2`."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def test_core_dependencies_are_what_the_code_imports():
    assert {name_of(requirement) for requirement in PROJECT["dependencies"]} == imported_packages()


def test_dependencies_have_lower_bounds_and_come_from_the_index():
    extras = PROJECT["optional-dependencies"]
    assert {"cuda12", "cuda13", "tpu", "test", "docs", "slurm", "vault"} <= set(extras)
    for requirement in [*PROJECT["dependencies"], *(item for group in extras.values() for item in group)]:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z0-9]+\])?>=[0-9.]+", requirement), requirement


PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)( ; python_version (<|>=) \"3\.\d+\")?")


def test_constraints_pin_every_dependency_and_nothing_else():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [PIN.fullmatch(line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if not pin]
    names = {pin[1] for pin in pins if pin}
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(item for group in extras.values() for item in group)]
    assert {name_of(requirement) for requirement in wanted} <= names


# --- scripts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["scripts/quickstart.sh", "scripts/test.sh", ".ci/run"])
def test_scripts_are_executable_bash(script):
    path = ROOT / script
    assert os.access(path, os.X_OK) and path.read_text().startswith("#!/usr/bin/env bash\n")
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_scripts_refuse_arguments(script, tmp_path):
    done = subprocess.run([ROOT / "scripts" / script, "--fast"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{script}: takes no argument\n")
    assert list(tmp_path.iterdir()) == []


FIND_PYTHON = 'set -eu; source "$1"; PATH="$2" find_python'


def test_scripts_take_the_first_python_that_fits(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    bash = ["bash", "-c", FIND_PYTHON, "quickstart.sh", ROOT / "scripts" / "make_venv.sh", f"{folder}:/usr/bin:/bin"]
    for name, code in (("python3", 1), ("python3.13", 127), ("python3.12", 0), ("python3.11", 0)):
        (folder / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(bash, capture_output=True, text=True)
    assert done.stdout == f"{folder / 'python3.12'}\n", done.stderr
    for path in folder.iterdir():
        path.write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run(bash, capture_output=True, text=True)
    assert done.returncode == 1 and "no Python 3.11, 3.12 or 3.13 found" in done.stderr
