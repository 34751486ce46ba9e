"""Random search over the numbers of a learner: all trials of a search are cells of one pack, one compiled program.

    python -m marl_bench.experiments.tune foraging_ippo --out docs/results/tuning

draws trials with a seeded generator, trains them side by side with the seed 100, then trains the best one and the settings that were
usual before with fresh seeds 0 ... 4, and writes `NAME.csv` (trials, best first), `NAME_confirmed.csv` and `NAME.md` (both). What decides
shapes is fixed by the search. Learners that are paid in a dilemma are searched under the group's mean reward, so that a better
learner earns more.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench import registry
from marl_bench.experiments.cells import CellSpec
from marl_bench.experiments.papers.reporting import processor
from marl_bench.naming import nearest
from marl_bench.report.statistics import bootstrap_interval, difference_interval
from marl_bench.report.tables import Column, Table
from marl_bench.reward_wrappers import CommonReward
from marl_bench.runtime.files import write_atomic
from marl_bench.runtime.packs import make_packs
from marl_bench.runtime.runner import PackRunner


@dataclasses.dataclass(frozen=True)
class Search:
    """One random search.

    Attributes:
      environment: registered name.
      learner: registered name.
      fixed: fields of the learner that every trial has.
      ranges: field -> (low, high); the logarithm is drawn uniformly.
      steps: environment steps of a trial.
      trials: number of draws.
      score: column of the evaluation that is to be large.
      environment_fields: fields of the world.
      usual: settings to compare the best trial with; the learner's defaults where a field is not here.
      common: every agent is paid the mean reward of all.
    """

    environment: str
    learner: str
    fixed: dict[str, Any]
    ranges: dict[str, tuple[float, float]]
    steps: int
    trials: int = 12
    score: str = "return_sum"
    environment_fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    usual: dict[str, float] = dataclasses.field(default_factory=dict)
    common: bool = False

    def usual_numbers(self) -> dict[str, float]:
        """The searched fields as they are without this search."""
        numbers = vars(registry.make_learner(self.learner, **self.fixed)) | self.usual
        return {name: numbers[name] for name in self.ranges}


_PPO_RANGES = {
    "learning_rate": (5e-4, 3e-3),
    "entropy_coefficient": (3e-3, 3e-2),
    "discount": (0.96, 0.995),
    "gae_lambda": (0.85, 0.98),
}
_FORAGING_PPO: dict[str, Any] = {"num_envs": 32, "num_steps": 50, "activation": "relu", "evaluation_greedy": False}
_FORAGING_VDN: dict[str, Any] = {
    "team_reward": "sum",
    "num_steps": 10,
    "batch_size": 64,
    "buffer_size": 20_000,
    "target_period": 1,
    "learning_rate_steps": 480_000,
    "anneal_steps": 120_000,
}
_PARTICLES_PPO: dict[str, Any] = {
    "num_envs": 64,
    "num_steps": 25,
    "activation": "relu",
    "agent_id": True,
    "evaluation_greedy": True,
    "anneal_steps": 512_000,
}
_PARTICLES_RANGES = {**_PPO_RANGES, "discount": (0.9, 0.99), "entropy_coefficient": (1e-3, 3e-2)}
_COIN_PPO: dict[str, Any] = {
    "num_envs": 16,
    "num_steps": 50,
    "epochs": 2,
    "hidden_sizes": (32, 32),
    "activation": "relu",
    "sharing": "independent",
}

SEARCHES = {
    "foraging_ippo": Search("Foraging-8x8-2p-2f-coop-v3", "ippo", _FORAGING_PPO, _PPO_RANGES, 1_000_000, trials=8),
    "foraging_vdn": Search(
        "Foraging-8x8-2p-2f-coop-v3",
        "vdn",
        _FORAGING_VDN,
        {
            "learning_rate": (3e-4, 3e-3),
            "td_lambda": (0.3, 0.95),
            "discount": (0.95, 0.995),
            "target_step": (3e-3, 3e-2),
        },
        480_000,
        trials=8,
        usual={"learning_rate": 1e-3, "td_lambda": 0.6, "target_step": 0.01},
    ),
    "spread_ippo": Search(
        "spread",
        "ippo",
        _PARTICLES_PPO,
        _PARTICLES_RANGES,
        512_000,
        score="return_mean_per_agent",
        usual={"learning_rate": 1e-3},
    ),
    "tag_ippo": Search(
        "tag",
        "ippo",
        {**_PARTICLES_PPO, "anneal_steps": 256_000},
        _PARTICLES_RANGES,
        256_000,
        trials=6,
        score="return_mean_per_agent",
        environment_fields={"prey": "flee"},
        usual={"learning_rate": 1e-3},
    ),
    "coin_game_ippo": Search(
        "coin_game",
        "ippo",
        _COIN_PPO,
        {**_PPO_RANGES, "learning_rate": (5e-4, 1e-2), "discount": (0.9, 0.99)},
        1_000_000,
        environment_fields={"horizon": 50},
        usual={"learning_rate": 1e-3},
        common=True,
    ),
}
"""Searches by name."""

FRESH_SEEDS = range(5)
"""Of the confirmation; a search has the seed 100."""


def draw(search: Search, seed: int = 0) -> list[dict[str, float]]:
    """The numbers of every trial, rounded to three digits: equal seeds give equal trials."""
    generator = np.random.default_rng(seed)
    logs = {name: np.log(bounds) for name, bounds in search.ranges.items()}
    return [
        {name: float(f"{np.exp(generator.uniform(*bounds)):.3g}") for name, bounds in logs.items()}
        for _ in range(search.trials)
    ]


def train(search: Search, cells: Sequence[tuple[dict[str, float], int]]) -> list[dict[str, float]]:
    """The evaluation's scalars of every (numbers, seed), trained side by side, and `finite` (1 or 0)."""
    learners = [registry.make_learner(search.learner, **search.fixed, **numbers) for numbers, _ in cells]
    specs = []
    for index, (learner, (_, seed)) in enumerate(zip(learners, cells, strict=True)):
        environment = registry.make(search.environment, **search.environment_fields).prepare(seed)
        environment = CommonReward(environment, reduce="mean") if search.common else environment
        specs.append(CellSpec(index, environment, learner, seed, {}))
    learners[0].validate(specs[0].environment)
    found: list[dict[str, float]] = [{} for _ in cells]
    for pack in make_packs(specs):
        runner = PackRunner(pack)
        state, _, finite = runner.train(runner.start(), learners[0].num_updates(search.steps))
        scores = runner.evaluate(state)
        for position, index in enumerate(pack.indices):
            found[index] = {name: float(values[position]) for name, values in scores.items()}
            found[index]["finite"] = float(finite[position])
    return found


def run(search: Search, seed: int = 100) -> list[dict[str, float]]:
    """Train every trial; its numbers and the evaluation's scalars, best first.

    Args:
      search: what to try.
      seed: of every trial's training.
    """
    trials = draw(search)
    found = train(search, [(trial, seed) for trial in trials])
    rows = [{**trial, **scores} for trial, scores in zip(trials, found, strict=True)]
    return sorted(rows, key=lambda row: row[search.score] if row["finite"] else -np.inf, reverse=True)


def confirm(search: Search, best: dict[str, float]) -> dict[str, list[float]]:
    """Scores of `FRESH_SEEDS` with the numbers of the best trial ("tuned") and without the search ("usual")."""
    settings = {"tuned": {name: best[name] for name in search.ranges}, "usual": search.usual_numbers()}
    found = train(search, [(numbers, seed) for numbers in settings.values() for seed in FRESH_SEEDS])
    scores, count = [row[search.score] for row in found], len(FRESH_SEEDS)
    return {"tuned": scores[:count], "usual": scores[count:]}


def table(name: str, search: Search, rows: Sequence[dict[str, float]], seconds: float) -> Table:
    """Trials as a table, best first."""
    shown = [*search.ranges, search.score, "return_std", "length"]
    columns = tuple(Column(column, format=".3g") for column in shown)
    world = {**search.environment_fields, **({"reward": "mean of all"} if search.common else {})}
    fixed = ", ".join(f"{field}={value}" for field, value in {**world, **search.fixed}.items())
    notes = (
        f"{search.environment}, {search.learner}, {search.steps:,} steps a trial, {seconds:.0f} s in all; {fixed}.",
        f"Command: python -m marl_bench.experiments.tune {name} --out DIR. Device: {processor()}.",
    )
    return Table(f"Random search {name}", columns, tuple(tuple(row[c] for c in shown) for row in rows), notes=notes)


def confirmation(
    name: str, search: Search, best: dict[str, float], scores: dict[str, list[float]], seconds: float
) -> Table:
    """The best trial beside the usual settings, over fresh seeds."""
    numbers = {"tuned": best, "usual": search.usual_numbers()}
    rows = [
        (
            label,
            *(numbers[label][field] for field in search.ranges),
            bootstrap_interval(scores[label]),
            len(scores[label]),
        )
        for label in scores
    ]
    columns = (
        *(Column("settings"), *(Column(field, format=".3g") for field in search.ranges)),
        *(Column(search.score, format=".3f"), Column("seeds", format="d")),
    )
    gain = difference_interval(scores["tuned"], scores["usual"])
    note = (
        f"Seeds {FRESH_SEEDS[0]} to {FRESH_SEEDS[-1]}, {search.steps:,} steps a seed, {seconds:.0f} s in all. Tuned minus usual: "
        f"{gain.estimate:.3f} [{gain.low:.3f}, {gain.high:.3f}]. Brackets: 95% bootstrap intervals over seeds."
    )
    return Table(f"{name}: fresh seeds", columns, tuple(rows), notes=(note,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named search and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"one of {', '.join(SEARCHES)}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parsed = parser.parse_args(arguments)
    if parsed.name not in SEARCHES:
        parser.error(f"unknown search {parsed.name!r}{nearest(parsed.name, SEARCHES)}")
    search = SEARCHES[parsed.name]
    began = time.perf_counter()
    rows = run(search)
    found = {parsed.name: table(parsed.name, search, rows, time.perf_counter() - began)}
    began = time.perf_counter()
    scores = confirm(search, rows[0])
    seconds = time.perf_counter() - began
    found[f"{parsed.name}_confirmed"] = confirmation(parsed.name, search, rows[0], scores, seconds)
    parsed.out.mkdir(parents=True, exist_ok=True)
    for file, one in found.items():
        write_atomic(parsed.out / f"{file}.csv", one.to_csv().encode())
    text = "\n\n".join(one.to_markdown() for one in found.values())
    write_atomic(parsed.out / f"{parsed.name}.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
