"""Reproduction `foraging_baselines`: value and policy-gradient learners in level-based foraging (Papoudakis et al. 2021's tasks).

Scores are the team's return: 1 when all food is eaten in time. `vdn` and `qmix` learn from the team's reward; `iql`, `ippo` and
`mappo` from each agent's own, which sums to the same. Settings: `marl_bench.experiments.tune` (search `foraging_ippo`, in the first
of the tasks only) and docs/learners/vdn.md.
"""

from __future__ import annotations

from pathlib import Path

from marl_bench.experiments.papers import baselines
from marl_bench.experiments.papers.baselines import Claim, Entry, Published, Study

MAIN = "8x8-2p-2f-coop"
"""The task that settings were chosen in."""

TASKS = (MAIN, "2s-8x8-2p-2f-coop", "10x10-3p-3f", "15x15-3p-5f")

VALUES = {
    "num_steps": 10,
    "batch_size": 64,
    "buffer_size": 20_000,
    "target_period": 1,
    "target_step": 0.01,
    "td_lambda": 0.6,
    "learning_rate": 1e-3,
}
"""Of iql, vdn and qmix."""

POLICY = {
    "num_envs": 32,
    "num_steps": 50,
    "activation": "relu",
    "learning_rate": 2.15e-3,
    "entropy_coefficient": 2.45e-2,
    "discount": 0.981,
    "gae_lambda": 0.943,
}
"""Of ippo and mappo: the best trial of the search `foraging_ippo`."""

_SEEDS = {"smoke": 2, "reduced": 5, "paper": 10}
_STEPS = {
    "smoke": {"value": (20_000,), "policy": (32_000,)},
    "reduced": {"value": (800_000, 240_000, 240_000, 240_000), "policy": (320_000,) * 4},
    "paper": {"value": (2_000_000,) * 4, "policy": (20_000_000,) * 4},
}
"""Environment steps of a seed in the first of `TASKS`; the others are left out. `paper`: Papoudakis et al. 2021."""


def entries(scale: str) -> list[Entry]:
    """Five learners in all four tasks (in `MAIN` alone at scale smoke)."""
    found, lengths = [], _STEPS[scale]
    for number, task in enumerate(TASKS[: len(lengths["value"])]):
        for learner in ("ippo", "mappo", "vdn", "qmix", "iql"):
            value = learner in ("iql", "vdn", "qmix")
            steps = lengths["value" if value else "policy"][number]
            team = {"team_reward": "sum"} if learner in ("vdn", "qmix") else {}
            schedule = {"learning_rate_steps": steps, "anneal_steps": steps // 4} if value else {"anneal_steps": steps}
            settings = {**(VALUES if value else POLICY), **team, **schedule}
            name = f"Foraging-{task}-v3"
            found.append(
                baselines.entry(task, learner, name, learner, steps, _SEEDS[scale], 20, learner_fields=settings)
            )
    return found


_LONGER = "iql and vdn need longer than scale reduced gives them: docs/learners/vdn.md has 1.6 million steps"


def _claims() -> tuple[Claim, ...]:
    source = "acceptance line of this package: at least three learners"
    solved = [
        Claim(
            f"solved {label}",
            f"{label} returns at least 0.95 in {MAIN}",
            MAIN,
            label,
            "positive",
            target=0.95,
            source=source,
            note=_LONGER if label in ("iql", "vdn") else "",
        )
        for label in ("iql", "vdn", "qmix", "ippo", "mappo")
    ]
    team = Claim(
        "team values",
        "a joint value (vdn) returns more than independent ones (iql)",
        MAIN,
        "vdn",
        "positive",
        other="iql",
        source="ours, after Papoudakis et al. 2021",
    )
    heuristics = [
        Claim(
            f"heuristics {world}",
            "the best learner returns more than the best of the heuristics H1 to H4",
            world,
            baselines.TRAINED,
            "positive",
            target=bound,
            source="lbforaging's heuristics, as measured for the specification",
        )
        for world, bound in ((MAIN, 0.38), ("10x10-3p-3f", 0.29))
    ]
    return (*solved, team, *heuristics)


_MEASURED = "lbforaging 2.0.0, 300 seeds, s.e. at most 0.02 (specification, section 11)"
_UNREAD = (
    "Returns that papers report for these learners could not be read (UNVERIFIED), so random play and lbforaging's own heuristics "
    "stand beside ours."
)

STUDY = Study(
    name="foraging_baselines",
    title="Level-based foraging",
    entries=entries,
    claims=_claims(),
    published=tuple(
        Published(world, policy, value, _MEASURED)
        for world, values in ((MAIN, (0.003, 0.17, 0.38, 0.01, 0.38)), ("10x10-3p-3f", (0.09, 0.29, 0.28, 0.24, 0.28)))
        for policy, value in zip(("random", "H1", "H2", "H3", "H4"), values, strict=True)
    ),
    measures={"length": "length", "return_min_agent": "worst agent's return", "social/equality": "equality"},
    pooled=True,
    remark=_UNREAD,
)


def reproduce(scale: str, out: Path | str, *, resume: bool = True, wandb: str = "offline") -> int:
    """Train, evaluate and report one scale; see `baselines.reproduce`."""
    return baselines.reproduce(STUDY, scale, out, resume=resume, wandb=wandb)
