"""Reproduction `dec_pomfc`: learned collective behaviour by mean-field control (Cui et al. 2024, ICLR, arXiv 2307.06175).

Only the paper's abstract could be read, so the tasks are a reconstruction and no digit of ours is compared with one of the paper. What is judged
are relations: those of the abstract, and those that the specification of the reconstruction expects. E1, E2, E4, E7, E8 and E9 train
(`dec_pomfc_grid`); E3, E5, E6 and E11 evaluate what was trained (`dec_pomfc_execution`); E10 compares gradients (`dec_pomfc_gradients`). E12,
the cost of large swarms, is `marl-bench bench swarms`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from marl_bench.experiments.papers import (
    baselines,
    dec_pomfc_execution,
    dec_pomfc_gradients,
    dec_pomfc_report,
    reporting,
)
from marl_bench.experiments.papers import dec_pomfc_grid as grid
from marl_bench.experiments.papers.baselines import Study
from marl_bench.report.verdicts import Verdict, verdict_table

_REMARK = (
    "A reconstruction: only the paper's abstract could be read, so worlds, rules and settings are ours, and relations are compared, never digits. "
    "Scores are returns of an agent, the sum of the team's reward over 100 steps, of the policy of the last iteration, executed open-loop (dec_pomfc) "
    "or from each agent's own view. 'ippo+mf' sees the features of the mean field in training and in evaluation, 'mappo-mf' in training."
)

STUDY = Study(
    name="dec_pomfc",
    title="Mean-field control of swarms",
    entries=grid.entries,
    claims=(),
    column="return_mean_per_agent",
    unit="return of an agent",
    best=False,
    remark=_REMARK,
)


def reproduce(scale: str, out: Path | str, *, resume: bool = True, wandb: str = "offline") -> int:
    """Train, evaluate and report one scale; see `baselines.reproduce`.

    `out` gets `evaluations.csv` and `gradients.csv`, too; what stands there is not played again.
    """
    reporting.check_scale(scale)
    folder = Path(out)
    runs = [(one.run, f"{one.world}: {one.label}", one.config) for one in grid.entries(scale)]
    reporting.train(runs, folder, resume=resume, wandb=wandb)
    report(scale, folder)
    return 0


def report(scale: str, folder: Path | str) -> list[Verdict]:
    """Write and print tables, figures and verdicts from the run directories in `folder`/runs; plays what was not played yet.

    Raises:
      RunError: when a run of the scale is missing.
    """
    folder = Path(folder)
    entries = grid.entries(scale)
    results = baselines.load(STUDY, entries, folder)
    played = dec_pomfc_execution.evaluate(folder, scale)
    gradients = dec_pomfc_gradients.measure(folder, scale)
    runs = reporting.summaries(folder, [one.run for one in entries])
    found = {**baselines.tables(STUDY, entries, results, runs), **dec_pomfc_report.tables(played, gradients)}
    verdicts = dec_pomfc_report.verdicts(_scores(results), played, gradients)
    judged = verdict_table(verdicts, f"Claims at scale {scale}")
    pictures = [*baselines.figures(STUDY, entries, folder), *dec_pomfc_report.figures(played, folder / "figures")]
    reporting.write(folder, STUDY.name, scale, found, judged, verdicts, pictures, runs, STUDY.remark)
    reporting.show((*found.values(), judged), f"report:  {folder / 'report.md'}")
    return verdicts


def _scores(results: dict[tuple[str, str], Any]) -> pd.DataFrame:
    """Columns world, label, seed, value of everything that was trained, with the metrics of the last policy's evaluation."""
    parts = [frame.assign(world=world, label=label, value=frame["score"]) for (world, label), frame in results.items()]
    return pd.concat(parts, ignore_index=True)
