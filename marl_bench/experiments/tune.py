"""Random search over the numbers of a learner: all trials of a search are cells of one pack, one compiled program.

    python -m marl_bench.experiments.tune foraging_ippo --out docs/results/tuning

draws trials with a seeded generator, trains them side by side, and writes `NAME.csv` and `NAME.md`, best first. Trials share a
seed, so they differ in the drawn numbers only; what decides shapes is fixed by the search. The settings of
ippo and mappo in the study `foraging_baselines` come from such a table, run with fresh seeds.
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
from marl_bench.naming import nearest
from marl_bench.report.tables import Column, Table
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
    """

    environment: str
    learner: str
    fixed: dict[str, Any]
    ranges: dict[str, tuple[float, float]]
    steps: int
    trials: int = 12
    score: str = "return_sum"
    environment_fields: dict[str, Any] = dataclasses.field(default_factory=dict)


_PPO_RANGES = {
    "learning_rate": (5e-4, 3e-3),
    "entropy_coefficient": (3e-3, 3e-2),
    "discount": (0.96, 0.995),
    "gae_lambda": (0.85, 0.98),
}
_FORAGING_PPO: dict[str, Any] = {"num_envs": 32, "num_steps": 50, "activation": "relu", "evaluation_greedy": False}

SEARCHES = {
    "foraging_ippo": Search("Foraging-8x8-2p-2f-coop-v3", "ippo", _FORAGING_PPO, _PPO_RANGES, 1_000_000, trials=8),
}
"""Searches by name."""


def draw(search: Search, seed: int = 0) -> list[dict[str, float]]:
    """The numbers of every trial, rounded to three digits: equal seeds give equal trials."""
    generator = np.random.default_rng(seed)
    logs = {name: np.log(bounds) for name, bounds in search.ranges.items()}
    return [
        {name: float(f"{np.exp(generator.uniform(*bounds)):.3g}") for name, bounds in logs.items()}
        for _ in range(search.trials)
    ]


def run(search: Search, seed: int = 100) -> list[dict[str, float]]:
    """Train every trial; its numbers and the evaluation's scalars, best first.

    Args:
      search: what to try.
      seed: of every trial's training.
    """
    environment = registry.make(search.environment, **search.environment_fields).prepare(seed)
    trials = draw(search)
    learners = [registry.make_learner(search.learner, **search.fixed, **trial) for trial in trials]
    learners[0].validate(environment)
    cells = [CellSpec(index, environment, learner, seed, {}) for index, learner in enumerate(learners)]
    found = []
    for pack in make_packs(cells):
        runner = PackRunner(pack)
        state, _, finite = runner.train(runner.start(), learners[0].num_updates(search.steps))
        scores = runner.evaluate(state)
        for position, index in enumerate(pack.indices):
            row = {name: float(values[position]) for name, values in scores.items()}
            found.append({**trials[index], **row, "finite": float(finite[position])})
    return sorted(found, key=lambda row: row[search.score] if row["finite"] else -np.inf, reverse=True)


def table(name: str, search: Search, rows: Sequence[dict[str, float]], seconds: float) -> Table:
    """Trials as a table, best first."""
    shown = [*search.ranges, search.score, "return_std", "length"]
    columns = tuple(Column(column, format=".3g") for column in shown)
    fixed = ", ".join(f"{field}={value}" for field, value in search.fixed.items())
    notes = (
        f"{search.environment}, {search.learner}, {search.steps:,} steps a trial, {seconds:.0f} s in all; {fixed}.",
        f"Command: python -m marl_bench.experiments.tune {name} --out DIR",
    )
    return Table(f"Random search {name}", columns, tuple(tuple(row[c] for c in shown) for row in rows), notes=notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named search and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"one of {', '.join(SEARCHES)}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parsed = parser.parse_args(arguments)
    if parsed.name not in SEARCHES:
        parser.error(f"unknown search {parsed.name!r}{nearest(parsed.name, SEARCHES)}")
    began = time.perf_counter()
    rows = run(SEARCHES[parsed.name])
    found = table(parsed.name, SEARCHES[parsed.name], rows, time.perf_counter() - began)
    parsed.out.mkdir(parents=True, exist_ok=True)
    write_atomic(parsed.out / f"{parsed.name}.csv", found.to_csv().encode())
    write_atomic(parsed.out / f"{parsed.name}.md", found.to_markdown().encode())
    print(found.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
