"""Shared test setup: CPU only, two simulated devices, one persistent compile cache, strict keys."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def share_ir_contexts(programs: int = 200) -> None:
    """Let JAX write so many programs one after the other into one MLIR context.

    By default it makes a context for every program, which takes a quarter of the time of compiling a small one. A
    context keeps the constants written into it, so it is given up after a while. Where a release of JAX has no such
    function, the tests are only slower.
    """
    try:
        mlir = importlib.import_module("jax._src.interpreters.mlir")
        make = mlir.make_ir_context
    except (ImportError, AttributeError):
        return
    number, context = itertools.count(), None

    def latest() -> object:
        nonlocal context
        if next(number) % programs == 0:
            context = make()
        return context

    mlir.make_ir_context = latest


share_ir_contexts()


@pytest.fixture(scope="session")
def plugins() -> Path:
    """Folder of the plug-in packages that tests import by address."""
    return Path(__file__).parent / "plugins"


# Longest first: scripts/test.sh hands out whole files in this order, so that none of these starts when the other
# workers are about to end. A file that is not named here follows in the order of its name.
LONGEST = [
    *("resume", "dqn", "grid", "foraging", "particles", "value_games", "q_learning", "ppo", "sweep", "check", "ddpg"),
    *("policy", "cleanup", "in_the_matrix", "commons_harvest", "team_worlds", "territory", "coin_game", "bench_envs"),
    *("docs", "report", "gift", "mushrooms", "network_dilemma", "exploration_collapse", "games", "matrix_game"),
    *("foraging_jumanji", "adapters_jumanji", "wheel", "trust_and_split", "checkpoint", "cli", "sinks"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the order inside a file stays."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """Search for garbage more seldom: what was imported stays, and tracing makes many small objects without cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
