"""marl-bench: JAX-accelerated, vectorised multi-agent reinforcement-learning benchmarks.

Importing this package imports neither JAX nor anything that starts a backend; the names below are
loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "make": "marl_bench.registry",
    "make_learner": "marl_bench.registry",
    "environments": "marl_bench.registry",
    "learners": "marl_bench.registry",
    "register": "marl_bench.registry",
    "Environment": "marl_bench.environment",
    "Observation": "marl_bench.environment",
    "StepType": "marl_bench.environment",
    "TimeStep": "marl_bench.environment",
    "field": "marl_bench.environment",
    "Cell": "marl_bench.learner",
    "Learner": "marl_bench.learner",
    "TrainState": "marl_bench.learner",
    "check_environment": "marl_bench.check",
    "AutoReset": "marl_bench.wrappers",
    "load_policy": "marl_bench.experiments.policy",
    "run_sweep": "marl_bench.experiments.sweep",
}

__all__ = [
    "AutoReset",
    "Cell",
    "Environment",
    "Learner",
    "Observation",
    "StepType",
    "TimeStep",
    "TrainState",
    "__version__",
    "check_environment",
    "environments",
    "field",
    "learners",
    "load_policy",
    "make",
    "make_learner",
    "register",
    "run_sweep",
]

if TYPE_CHECKING:
    from marl_bench.check import check_environment
    from marl_bench.environment import Environment, Observation, StepType, TimeStep, field
    from marl_bench.experiments.policy import load_policy
    from marl_bench.experiments.sweep import run_sweep
    from marl_bench.learner import Cell, Learner, TrainState
    from marl_bench.registry import environments, learners, make, make_learner, register
    from marl_bench.wrappers import AutoReset


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'marl_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
