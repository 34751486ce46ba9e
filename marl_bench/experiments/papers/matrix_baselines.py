"""Reproduction `matrix_baselines`: which learner represents what, in cooperative games of one or two steps.

Value learners play uniformly at random while they learn, so what they end with is what they can represent, not what they happened
to explore; they are judged by their best actions. Policy-gradient learners learn from what they do and show which equilibrium
they are drawn to. Games and expected outcomes: Rashid et al. 2018 (two-step), Son et al. 2019 (non-monotone), Claus and Boutilier
1998 (climbing, penalty).
"""

from __future__ import annotations

from pathlib import Path

from marl_bench.experiments.papers import baselines
from marl_bench.experiments.papers.baselines import Claim, Entry, Published, Study

_ONE_STEP = {"climbing": {}, "penalty": {}, "non_monotone": {}, "additive": {}}
_NETWORK = {"hidden_sizes": (32,), "sharing": "independent"}
_VALUES = {
    **_NETWORK,
    "num_envs": 16,
    "initial_epsilon": 1.0,
    "final_epsilon": 1.0,
    "learning_starts": 1,
    "target_period": 20,
    "buffer_size": 1000,
    "learning_rate": 2e-2,
}
_POLICY = {
    **_NETWORK,
    "num_envs": 64,
    "num_steps": 8,
    "minibatches": 1,
    "learning_rate": 3e-3,
    "evaluation_greedy": True,
}
_STEPS = {"smoke": 3_200, "reduced": 25_600, "paper": 256_000}
_SEEDS = {"smoke": 2, "reduced": 5, "paper": 30}


def entries(scale: str) -> list[Entry]:
    """Five games, five learners."""
    steps, seeds, found = _STEPS[scale], _SEEDS[scale], []
    for world in (*_ONE_STEP, "two_step"):
        rows = {"num_steps": 2 if world == "two_step" else 1}
        fields = {} if world == "two_step" else {"horizon": 1}
        for learner in ("iql", "vdn", "qmix"):
            team = {} if learner == "iql" else {"team_reward": "mean"}
            settings = {**_VALUES, **rows, **team, "learning_rate_steps": steps}
            found.append(baselines.entry(world, learner, world, learner, steps, seeds, 10, fields, settings))
        for learner in ("ippo", "mappo"):
            found.append(baselines.entry(world, learner, world, learner, 2 * steps, seeds, 10, fields, _POLICY))
    return found


def _claim(name: str, statement: str, world: str, label: str, target: float, source: str, note: str = "") -> Claim:
    """`label` ends with `target` in every seed."""
    return Claim(name, statement, world, label, "equivalent", target=target, practical=0.2, source=source, note=note)


_RASHID, _SON, _CLAUS = "Rashid et al. 2018, section 5", "Son et al. 2019, section 5", "Claus and Boutilier 1998"
_MEAN_ROW = "payoff tables: the action that is best against a partner who plays at random"

CLAIMS = (
    _claim("two-step VDN", "VDN settles for 7 in the two-step game", "two_step", "vdn", 7.0, _RASHID),
    _claim("two-step QMIX", "QMIX finds 8 in the two-step game", "two_step", "qmix", 8.0, _RASHID),
    _claim(
        "non-monotone VDN", "VDN misses the best action (8) of the non-monotone game", "non_monotone", "vdn", 0.0, _SON
    ),
    _claim("non-monotone QMIX", "QMIX misses it, too", "non_monotone", "qmix", 0.0, _SON),
    _claim("additive VDN", "VDN represents an additive game exactly", "additive", "vdn", 6.0, "by construction"),
    _claim("additive QMIX", "so does QMIX", "additive", "qmix", 6.0, "by construction"),
    _claim("climbing IQL", "averaging over the partner ends in the safe action (5)", "climbing", "iql", 5.0, _MEAN_ROW),
    _claim("climbing VDN", "so does a sum of values", "climbing", "vdn", 5.0, _MEAN_ROW),
    Claim(
        "climbing best",
        "some learner finds the optimum (11) in every seed",
        "climbing",
        baselines.TRAINED,
        "equivalent",
        target=11.0,
        practical=0.2,
        source=_CLAUS,
    ),
    _claim("penalty IQL", "averaging avoids the two optima of the penalty game (2)", "penalty", "iql", 2.0, _MEAN_ROW),
)

STUDY = Study(
    name="matrix_baselines",
    title="Cooperative games",
    entries=entries,
    claims=CLAIMS,
    published=(
        Published("two_step", "vdn", 7.0, _RASHID),
        Published("two_step", "qmix", 8.0, _RASHID),
        Published("climbing", "optimum", 11.0, _CLAUS),
        Published("penalty", "optimum", 10.0, _CLAUS),
        Published("non_monotone", "optimum", 8.0, _SON),
        Published("climbing", "uniform play", -31 / 9, "mean of the table"),
        Published("penalty", "uniform play", (22 - 2 * 100) / 9, "mean of the table"),
    ),
    column="return_mean_per_agent",
    unit="payoff",
    best=False,
    remark="Value learners play uniformly at random while they learn; all are judged by their best actions.",
)


def reproduce(scale: str, out: Path | str, *, resume: bool = True, wandb: str = "offline") -> int:
    """Train, evaluate and report one scale; see `baselines.reproduce`."""
    return baselines.reproduce(STUDY, scale, out, resume=resume, wandb=wandb)
