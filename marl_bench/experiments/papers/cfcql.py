"""Reproduction `cfcql`: conservative about one agent at a time (Shao et al. 2023, NeurIPS, arXiv 2309.12696).

The paper's tables could not be read from the paper itself; what is judged are relations. Part one is equal_line from few agents to
many, where joint conservatism should become too strong; part two are the particle worlds of the offline papers on four tiers of data
that our own learners made. Returns are raw in one column and normalised in another, and never mixed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from marl_bench.experiments import offline
from marl_bench.experiments.papers import cfcql_claims, cfcql_report, reporting
from marl_bench.experiments.papers import cfcql_grid as grid
from marl_bench.report.results import load_metrics, load_results
from marl_bench.report.verdicts import Verdict, unmeasured, verdict_table

_REMARK = (
    "Relations are judged, not digits: the data are our own, schedules are shorter at scale reduced (fewer updates, smaller batches, "
    "networks without memory in equal_line), and the prey of tag and world is a script that flees. As many conservative "
    "weights are tried for each learner (in equal_line larger ones for cfcql, whose term is about n times as small at the same weight), and "
    "each seed is reported with the one that is best for the other seeds; differences are taken seed by seed, because each seed has data "
    "of its own. In the run table a step is an update."
)
_LOGGED = ("log_d_cf", "log_d_ma", "largest_weight")


def reproduce(scale: str, out: Path | str, *, resume: bool = True, wandb: str = "offline") -> int:
    """Record data, train, evaluate and report one scale; see `baselines.reproduce`. The data stay in `out`/data."""
    reporting.check_scale(scale)
    folder = Path(out)
    grid.collect(scale, folder)
    runs = [(one.run, f"{one.part}: {one.place}, {one.label}", one.config(folder)) for one in grid.trainings(scale)]
    reporting.train(runs, folder, resume=resume, wandb=wandb)
    report(scale, folder)
    return 0


def report(scale: str, folder: Path | str) -> list[Verdict]:
    """Write and print tables, figures and verdicts from the run directories in `folder`/runs.

    Raises:
      RunError: when a run of the scale is missing.
    """
    folder = Path(folder)
    trained = grid.trainings(scale)
    scores = pd.concat([_scores(one, folder) for one in trained], ignore_index=True)
    line, ablation = (scores[scores["part"] == part].reset_index(drop=True) for part in ("line", "ablation"))
    particles = _normalised(scores[scores["part"] == "particles"].reset_index(drop=True))
    weights = cfcql_report.weights_table(line, ["data", "players"], "ratio", "equal_line: return / data's by weight")
    own = cfcql_report.weights_table(particles, ["world", "data"], "normalised", "Particle worlds: score by weight")
    found = {"line": cfcql_report.line_table(line), **cfcql_report.particle_tables(particles)}
    found |= {"line_weights": weights, "particle_weights": own}
    if len(ablation):
        found["ablation"] = cfcql_report.ablation_table(ablation)
    verdicts = [*cfcql_claims.line_claims(line), *cfcql_claims.ablation_claims(ablation)]
    verdicts += [*cfcql_claims.particle_claims(particles), *_left_out()]
    judged = verdict_table(verdicts, f"Claims at scale {scale}")
    runs = reporting.summaries(folder, [one.run for one in trained])
    pictures = cfcql_report.line_figures(line, folder / "figures")
    reporting.write(folder, "cfcql", scale, found, judged, verdicts, pictures, runs, _REMARK)
    reporting.show((*found.values(), judged), f"report:  {folder / 'report.md'}")
    return verdicts


def _left_out() -> list[Verdict]:
    note = "StarCraft-like worlds are not part of this study: they need the package jaxmarl, and more than an hour on a CPU"
    return [
        unmeasured(name, statement, note=note, source=cfcql_claims.PAPER)
        for name, statement in (
            ("R5 collapse", "macql collapses on expert and mixed data of 5m_vs_6m and 6h_vs_8z, cfcql does not"),
            ("R5 imitation", "cfcql wins at least as often as imitation, and more often on mixed data"),
        )
    ]


def _scores(one: grid.Training, folder: Path) -> pd.DataFrame:
    """One row for each cell of a run: where, how, what it returned, what its data returned, last logged divergences."""
    results = load_results(folder / "runs" / one.run)
    logged = load_metrics(folder / "runs" / one.run)
    last = logged[logged["env_steps"] == logged["env_steps"].max()].set_index("cell")
    frame = pd.DataFrame(
        {
            "part": one.part,
            "world": one.world,
            "players": one.players,
            "data": [Path(path).name for path in results["dataset"]],
            "learner": one.label,
            "seed": results["seed"],
            "weight": results.get("learner.conservative_weight", pd.Series(np.nan, results.index)).astype(np.float64),
            "temperature": results.get("learner.temperature"),
            "sign": results.get("learner.lambda_sign"),
            "value": results["return_mean_per_agent"].round(6),
            "behaviour": [
                _data_return(path, seed) for path, seed in zip(results["dataset"], results["seed"], strict=True)
            ],
        }
    )
    for name in _LOGGED:
        column = last[name] if name in last else pd.Series(np.nan, last.index)
        frame[name] = column.reindex(results["cell"]).to_numpy(np.float64)
    return frame.assign(ratio=frame["value"] / frame["behaviour"], log_d_ratio=frame["log_d_ma"] - frame["log_d_cf"])


def _data_return(path: str, seed: int) -> float:
    """Mean return of an agent in the data set that a seed learned from."""
    parts = offline.opened(path).parts
    return parts[seed % len(parts)].return_mean


def _normalised(scores: pd.DataFrame) -> pd.DataFrame:
    """`scores` with normalised ones: 0 for the mean of the random data, 100 for that of the expert data of the same world."""
    reference = scores.groupby(["world", "data"])["behaviour"].mean()
    low, high = (
        scores["world"].map(lambda world, tier=tier: reference.get((world, tier), np.nan))
        for tier in ("random", "expert")
    )
    scale = 100.0 / (high - low)
    return scores.assign(
        normalised=((scores["value"] - low) * scale).round(6),
        data_normalised=((scores["behaviour"] - low) * scale).round(6),
    )
