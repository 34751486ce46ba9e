"""Which cells "How Exploration Breaks Cooperation" needs, at three scales.

Source: Weng and Lee 2026 (arXiv 2601.05509) and the experiment scripts that its authors published beside it. Every scale keeps
the full schedule of 95,000 training and 5,000 evaluation steps: shortening it changes which runs collapse.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from marl_bench.experiments.cells import SweepConfig
from marl_bench.experiments.papers.reporting import SCALES

Frame = Any
"""A pandas DataFrame or Series: its type stubs cannot follow arithmetic on columns."""

STUDIED = (0.127, 0.260, 0.393, 0.527, 0.660, 0.793)
"""Initial temperatures of every experiment but the heat map (B = 0.12, 0.22, ..., 0.62)."""

HEAT_MAP = (0.127, 0.193, 0.260, 0.327, 0.393, 0.460, 0.527, 0.593, 0.660, 0.727)
"""Initial temperatures of the heat map in the paper's first release."""

DILEMMA = 0.25
"""Dilemma strength of every experiment but the heat map."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One sweep of the study.

    Attributes:
      name: folder of its run directory.
      table: runs of one table are analysed together.
      experiment: the experiments of the paper that read it, e.g. "E1".
      config: what to run.
    """

    name: str
    table: str
    experiment: str
    config: SweepConfig


def exploration_intensity(initial_temperature: Any, final_temperature: Any = 0.1, anneal_steps: int = 95_000) -> Any:
    """B, the mean of the logged temperatures tau(1) ... tau(A / 2), in payoff units.

    B = tau_0 - (tau_0 - tau_f) (A / 2 + 1) / (2 A); the log is written after the counter increments.
    """
    return initial_temperature - (initial_temperature - final_temperature) * (anneal_steps // 2 + 1) / (
        2 * anneal_steps
    )


def _run(name: str, experiment: str, seeds: range, temperatures: tuple[float, ...], **fields: Any) -> Run:
    environment = {key[4:]: value for key, value in fields.items() if key.startswith("env_")}
    learner = {key[8:]: value for key, value in fields.items() if key.startswith("learner_")}
    config = SweepConfig(
        environment="network_dilemma",
        learner="dqn",
        environment_fields={"dilemma_strength": [DILEMMA], **environment},
        learner_fields={"initial_temperature": list(temperatures), **learner},
        seeds=list(seeds),
    )
    table = name.partition("+")[0]
    return Run(name, table, experiment, config)


def _grid(start: float, stop: float, step: float) -> list[float]:
    return [round(start + i * step, 2) for i in range(round((stop - start) / step) + 1)]


def runs(scale: str) -> list[Run]:
    """The sweeps of one scale, cheapest first.

    `smoke`: 45 cells, minutes on two CPU cores. `reduced`: coarse grid, 100 groups at two temperatures; an hour or two there.
    `paper`: the full matrix; for an accelerator.

    Raises:
      ValueError: for an unknown scale.
    """
    if scale == "smoke":
        return [_run("heat_map", "E1", range(195, 200), (0.127, 0.393, 0.793), env_dilemma_strength=[0.10, 0.25, 0.40])]
    if scale == "reduced":
        five = range(195, 200)
        return [
            _run("heat_map", "E1, E2, E5, E6", five, STUDIED, env_dilemma_strength=_grid(0.10, 0.40, 0.05)),
            _run(
                "heat_map+seeds",
                "E1, E2, E5, E6",
                range(200, 205),
                STUDIED,
                env_dilemma_strength=_grid(0.10, 0.40, 0.05),
            ),
            _run("topology", "E7", five, STUDIED, env_topology=["rewired", "random", "modular"]),
            _run("augmentation", "E4", five, (0.127, 0.393, 0.660), **_AUGMENTED),
            _run("groups_10", "E2, E3", five, STUDIED, **_TEN_GROUPS),
            _run("groups_100_long", "E3", five, (0.393, 0.793), **_HUNDRED_GROUPS, learner_buffer_steps=[1000]),
            _run("groups_100_short", "E3", five, (0.393, 0.793), **_HUNDRED_GROUPS, learner_buffer_steps=[100]),
        ]
    if scale == "paper":
        thirty, fifteen, five = range(195, 225), range(195, 210), range(195, 200)
        strengths = _grid(0.10, 0.40, 0.01)
        return [
            _run("heat_map", "E1, E2, E5, E6", thirty, HEAT_MAP, env_dilemma_strength=strengths),
            _run("heat_map+ends", "E1, E5, E6", fifteen, (0.100, 0.793), env_dilemma_strength=strengths),
            _run("topology", "E7", fifteen, STUDIED, env_topology=["rewired", "random", "modular"]),
            _run("augmentation", "E4", fifteen, STUDIED, **_AUGMENTED),
            _run("lattice_40", "E8", fifteen, STUDIED, env_side=[40]),
            _run(
                "groups_10",
                "E2, E3",
                five,
                STUDIED,
                **_TEN_GROUPS,
                env_dilemma_strength=[*_grid(0.10, 0.40, 0.03), DILEMMA],
            ),
            _run("groups_100_long", "E3", five, STUDIED, **_HUNDRED_GROUPS, learner_buffer_steps=[1000]),
            _run("groups_100_short", "E3", five, STUDIED, **_HUNDRED_GROUPS, learner_buffer_steps=[100]),
        ]
    raise ValueError(f"scale={scale!r}: must be one of {', '.join(SCALES)}")


_AUGMENTED: dict[str, Any] = {"env_side": [50], "env_observe": ["actions", "temperature", "progress", "both"]}
_TEN_GROUPS: dict[str, Any] = {"learner_sharing": ["grouped"], "learner_num_groups": [10]}
_HUNDRED_GROUPS: dict[str, Any] = {"learner_sharing": ["grouped"], "learner_num_groups": [100]}
