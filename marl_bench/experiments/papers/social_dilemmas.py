"""Reproduction `social_dilemmas`: selfish ippo with one shared network against independent ones, judged by social metrics.

Worlds: coin game, cleanup, commons harvest (open), stag hunt and prisoner's dilemma in the matrix (two players). Every agent learns
from its own reward; the two conditions differ in who shares parameters. No published returns of these learners under these rules
could be read (UNVERIFIED); the closed facts of the coin game and the returns of this package's scripted policies stand beside ours.
"""

from __future__ import annotations

from pathlib import Path

from marl_bench.experiments.papers import baselines
from marl_bench.experiments.papers.baselines import Claim, Entry, Published, Study

WORLDS = {
    "coin game": ("coin_game", {"horizon": 50}, 1_000_000),
    "stag hunt in the matrix": ("stag_hunt_in_the_matrix_repeated", {"horizon": 200}, 240_000),
    "prisoners dilemma in the matrix": ("prisoners_dilemma_in_the_matrix_repeated", {"horizon": 200}, 240_000),
    "harvest open": ("commons_harvest_open", {"players": 3, "horizon": 200}, 120_000),
    "cleanup": ("cleanup", {"players": 3, "horizon": 200}, 96_000),
}
"""Name -> registered world, fields at scale reduced, steps of a seed there."""

_PAPER = {
    "coin game": ({}, 5_000_000),
    "cleanup": ({}, 100_000_000),
    "harvest open": ({}, 100_000_000),
}
_MATRIX_PAPER = ({}, 50_000_000)

LEARNER = {
    "num_envs": 16,
    "num_steps": 50,
    "epochs": 2,
    "hidden_sizes": (32, 32),
    "activation": "relu",
    "learning_rate": 1e-3,
    "entropy_coefficient": 0.01,
    "evaluation_episodes": 64,
}
_SEEDS = {"smoke": 2, "reduced": 5, "paper": 10}


def entries(scale: str) -> list[Entry]:
    """Five worlds (the coin game alone at scale smoke), each shared and independent; scores are per agent and step."""
    found = []
    for world, (name, reduced, steps) in WORLDS.items():
        if scale == "smoke" and name != "coin_game":
            continue
        fields, total = _PAPER.get(world, _MATRIX_PAPER) if scale == "paper" else (reduced, steps)
        total = 40_000 if scale == "smoke" else total
        horizon = fields.get("horizon", 100 if name == "coin_game" else 1000)
        for sharing in ("shared", "independent"):
            settings = {**LEARNER, "sharing": sharing}
            found.append(
                baselines.entry(world, sharing, name, "ippo", total, _SEEDS[scale], 10, fields, settings, per=horizon)
            )
    return found


_MARGIN = 0.01
"""Reward per agent and step that still counts as no difference (own choice)."""


def _claims() -> tuple[Claim, ...]:
    fact = "closed facts of the coin game (specification, section 2.1)"
    selfish = [
        Claim(
            f"coin game {label}",
            f"selfish learners ({label}) stay below the 0.567 a step that both earn by taking their own coins only",
            "coin game",
            label,
            "negative",
            target=0.567,
            source=fact,
        )
        for label in ("shared", "independent")
    ]
    differ = [
        Claim(
            f"sharing {world}",
            "who shares parameters changes what an agent earns",
            world,
            "independent",
            "different",
            other="shared",
            practical=_MARGIN,
            source="ours",
            note="no direction was expected",
        )
        for world in WORLDS
    ]
    equal = [
        Claim(
            f"equality {world}",
            "agents that share a network end with more equal returns",
            world,
            "shared",
            "positive",
            other="independent",
            column="absolute_social/equality",
            source="ours",
        )
        for world in ("harvest open", "prisoners dilemma in the matrix")
    ]
    return (*selfish, *differ, *equal)


_FACT = "specification, section 2.1 (simulation)"

STUDY = Study(
    name="social_dilemmas",
    title="Social dilemmas",
    entries=entries,
    claims=_claims(),
    published=(
        Published("coin game", "uniform play", 0.0, _FACT),
        Published("coin game", "own coins only", 0.567, _FACT),
        Published("coin game", "nearest coin", 0.0, f"{_FACT}; with ties broken to red -0.302 and +0.302"),
    ),
    column="return_mean_per_agent",
    unit="reward per agent and step",
    measures={
        "social/efficiency": "efficiency (group reward a step)",
        "social/equality": "equality",
        "social/sustainability": "sustainability (step)",
        "social/peace": "peace (agents in the game)",
        "social/cooperation_rate": "cooperation rate",
        "social/min_return": "smallest return",
    },
    remark=(
        "Every agent learns from its own reward; the best evaluation is the one with the largest return of the group, so see the last "
        "policy, too. At scale reduced episodes are short, harvest and cleanup have three players, and training is far from its end in "
        "the matrix and in cleanup. No published returns of these learners under these rules could be read (UNVERIFIED)."
    ),
)


def reproduce(scale: str, out: Path | str, *, resume: bool = True, wandb: str = "offline") -> int:
    """Train, evaluate and report one scale; see `baselines.reproduce`."""
    return baselines.reproduce(STUDY, scale, out, resume=resume, wandb=wandb)
