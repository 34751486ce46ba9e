"""A wheel holds everything: installed into an environment of its own, it draws one frame of each world."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from marl_bench.experiments import gallery

ROOT = Path(__file__).parent.parent

DRAW = """
import sys, jax, marl_bench
from pathlib import Path
assert Path(marl_bench.__file__).is_relative_to(sys.prefix), marl_bench.__file__
for name in sys.argv[1:]:
    env = marl_bench.make(name).prepare(0)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    picture = env.render(state)
    assert picture.dtype == "uint8" and picture.shape[2] == 3 and picture.std() > 0, name
    print(name, flush=True)
"""


def run(*command: str | Path, **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Python of a virtual environment that holds our wheel, and everyone else's packages by a path."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy, because setuptools leaves folders beside what it builds.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "marl_bench", source / "marl_bench", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source)
    (wheel,) = folder.glob("marl_bench-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    (own,) = run(python, "-c", "import site; print(*site.getsitepackages())").split()
    (Path(own) / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def test_the_wheel_draws_every_world(installed, tmp_path):
    names = gallery.worlds()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    drawn = run(installed, "-c", DRAW, *names, cwd=tmp_path, env=environment)
    assert drawn.split() == names and len(names) >= 9


def test_the_wheel_brings_its_command(installed):
    assert "render" in run(installed.parent / "marl-bench", "--help")
