"""What the study `dec_pomfc` trains: one entry for each world, learner and setting, at three scales.

Experiments are numbered as in the specification of this reconstruction: E1 learning, E2 against learners with one sample an agent, E4 kernels
against histograms, E7 surfaces, E8 rewards, E9 ablations, E11 training sizes. What is only evaluated is in `dec_pomfc_execution`.
"""

from __future__ import annotations

from typing import Any

from marl_bench.experiments.papers import baselines
from marl_bench.experiments.papers.baselines import Entry

WORLDS = ("aggregation", "vicsek", "kuramoto")
SIZE, SMALL = 100, 25
"""Agents of E1, and of most other experiments."""

_SEEDS = {"smoke": 2, "reduced": 5, "paper": 5}
_STEPS = {
    "smoke": {"long": 9_600, "short": 4_800},
    "reduced": {"long": 240_000, "short": 96_000},
    "paper": {"long": 24_000_000, "short": 2_400_000},
}
"""Environment steps of a seed: of E1, and of everything else. `paper`: 1,000 iterations of the authors' later batch of 24,000."""

_PLANNER = {
    "num_envs": 16,
    "num_steps": 100,
    "minibatches": 8,
    "epochs": 4,
    "learning_rate": 1e-3,
    "evaluation_episodes": 100,
}
_AGENTS = {
    **_PLANNER,
    "initial_log_std": -0.5,
    "entropy_coefficient": 0.0,
    "max_grad_norm": 10.0,
    "value_clip": None,
    "normalize_values": True,
}
"""Of `ippo` and `mappo`: what differs from `dec_pomfc`'s defaults, so that both make the same gradient steps for each environment step."""

_PAPER = {"num_envs": 240, "minibatches": 6, "epochs": 8, "learning_rate": 3e-4, "hidden_sizes": (256, 256)}

MARL: dict[str, tuple[str, dict[str, Any]]] = {
    "ippo": ("ippo", {}),
    "mappo-mf": ("mappo", {"broadcast": "state"}),
    "ippo+mf": ("ippo", {"broadcast": "views"}),
}
"""Label -> learner and fields of the world: independent critics, a critic on the mean field, actors and critics that see it."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "bandwidth 0.25": {"rule_bandwidth": 0.25},
    "bandwidth 1": {"rule_bandwidth": 1.0},
    "3 centres": {"rule_centres": 3},
    "components": {"mix": "components"},
    "histogram features": {"features": "hist"},
    "no features": {"features": "none"},
    "lambda 1": {"gae_lambda": 1.0},
}
"""E9: what differs from dec_pomfc's settings in vicsek with `SMALL` agents."""

DIMENSIONS = (1, 2, 3)
SURFACES = ("klein", "mobius", "rp2")
REWARDS: dict[str, dict[str, Any]] = {
    "misalignment": {"reward": "misalignment"},
    "nematic": {"reward": "nematic"},
    "speed control": {"speed_control": True},
}
SURFACE_SIZE = 50
TRAINED_SIZES = (10, SMALL, SURFACE_SIZE)
"""Agents of E11's training in vicsek, besides E1's."""


def settings(learner: str) -> dict[str, Any]:
    """Fields of a learner in all experiments."""
    return _PLANNER if learner == "dec_pomfc" else _AGENTS


def sized(world: str, agents: int) -> str:
    """Name of a world with so many agents."""
    return f"{world} N={agents}"


def in_box(dimensions: int) -> str:
    """Name of E4's world, in which rules have 3 centres an axis."""
    return f"aggregation D={dimensions}"


def entries(scale: str) -> list[Entry]:
    """Everything that is trained at one scale, the most important first."""
    found = [_entry(scale, sized(world, SIZE), "dec_pomfc", world, {"agents": SIZE}, length="long") for world in WORLDS]
    if scale == "smoke":
        return [*found, *_against(scale, "vicsek", SMALL, ("ippo",))]
    found += [one for world in ("vicsek", "aggregation") for one in _against(scale, world, SMALL, tuple(MARL))]
    found += _against(scale, "kuramoto", SMALL, ("ippo",)) + _against(scale, "vicsek", 5, ("ippo",))
    for dimensions in DIMENSIONS:
        fields = {"agents": SMALL, "dimensions": dimensions}
        found += [
            _entry(scale, in_box(dimensions), rule, "aggregation", fields, {"rule": rule, "rule_centres": 3})
            for rule in ("rbf", "hist")
        ]
    for surface in SURFACES:
        fields = {"agents": SURFACE_SIZE, "surface": surface}
        found.append(_entry(scale, f"vicsek {surface}", "dec_pomfc", "vicsek", fields))
    for name, fields in REWARDS.items():
        found.append(_entry(scale, f"vicsek {name}", "dec_pomfc", "vicsek", {"agents": SMALL, **fields}))
    for name, fields in ABLATIONS.items():
        found.append(_entry(scale, sized("vicsek", SMALL), name, "vicsek", {"agents": SMALL}, fields))
    for agents in TRAINED_SIZES:
        if agents != SMALL:
            found.append(_entry(scale, sized("vicsek", agents), "dec_pomfc", "vicsek", {"agents": agents}))
    # A step of 100 agents that learn one by one is the most expensive.
    return found + (_against(scale, "vicsek", SIZE, ("ippo",), suffix=" short") if scale == "paper" else [])


def _against(scale: str, world: str, agents: int, labels: tuple[str, ...], suffix: str = "") -> list[Entry]:
    """E2: dec_pomfc and the named others in a world, for the same number of environment steps."""
    name, fields = sized(world, agents) + suffix, {"agents": agents}
    others = [
        _entry(scale, name, label, world, {**fields, **MARL[label][1]}, learner=MARL[label][0]) for label in labels
    ]
    return [_entry(scale, name, "dec_pomfc", world, fields), *others]


def _entry(
    scale: str,
    world: str,
    label: str,
    environment: str,
    fields: dict[str, Any],
    changed: dict[str, Any] | None = None,
    learner: str = "dec_pomfc",
    length: str = "short",
) -> Entry:
    chosen = {**settings(learner), **(_PAPER if scale == "paper" else {}), **(changed or {})}
    evaluations = 3 if scale == "smoke" else 6
    return baselines.entry(
        world, label, environment, learner, _STEPS[scale][length], _SEEDS[scale], evaluations, fields, chosen
    )
