"""Shared test setup: CPU only, two simulated devices, one persistent compile cache, strict keys."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def plugins() -> Path:
    """Folder of the plug-in packages that tests import by address."""
    return Path(__file__).parent / "plugins"


# Longest first: scripts/test.sh hands out whole files in this order, so that none of these starts when the other
# workers are about to end. A file that is not named here follows in the order of its name.
LONGEST = [
    *("resume", "sweep", "dqn", "policy", "exploration_collapse", "check", "games", "matrix_game", "coin_game"),
    *("value_games", "q_learning", "report", "checkpoint", "cli", "sinks", "bench_envs"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the order inside a file stays."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
