"""Reproduction of "How Exploration Breaks Cooperation in Shared-Policy MARL" (Weng and Lee 2026, arXiv 2601.05509).

`marl-bench reproduce exploration_collapse --scale smoke|reduced|paper --out DIR` trains the cells of
`collapse_grid`, then writes tables, figures and verdicts on the claims of `collapse_claims` into DIR. No absolute number
of the paper could be read, so there is none to print beside ours: the claims are relations.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from marl_bench.experiments.papers import collapse_claims, collapse_features, collapse_grid, collapse_report, reporting
from marl_bench.experiments.papers.collapse_claims import Results
from marl_bench.experiments.papers.collapse_grid import Run
from marl_bench.report.results import load_metrics, load_results
from marl_bench.report.verdicts import Verdict, verdict_table

_REMARK = "No absolute number of the paper could be read; its claims are relations, judged below."


def reproduce(scale: str, out: Path | str, *, resume: bool = True, wandb: str = "offline") -> int:
    """Train, evaluate and report one scale.

    Args:
      scale: "smoke", "reduced" or "paper".
      out: folder for run directories (`runs/NAME`), `tables`, `figures`, `verdicts.json` and `report.md`.
      resume: continue what an interrupted reproduction left; finished runs are never trained again.
      wandb: "offline", "online" or "disabled".
    Returns:
      0; a claim that fails is a finding, not an error.
    Raises:
      UsageError: for an unknown scale. RunError: when a run fails.
    """
    reporting.check_scale(scale)
    folder = Path(out)
    runs = [(run.name, f"{run.name} ({run.experiment})", run.config) for run in collapse_grid.runs(scale)]
    reporting.train(runs, folder, resume=resume, wandb=wandb)
    report(scale, folder)
    return 0


def report(scale: str, folder: Path | str) -> list[Verdict]:
    """Write and print tables, figures and verdicts from the run directories in `folder`/runs.

    Raises:
      FileNotFoundError: when a run of the scale is missing.
    """
    folder = Path(folder)
    runs = collapse_grid.runs(scale)
    results, metrics = _load(folder, runs)
    silhouettes = collapse_features.entanglement(folder / "runs", collapse_claims.at_dilemma(results["heat_map"]))
    found = collapse_report.tables(results, silhouettes)
    verdicts = collapse_claims.all_verdicts(results, metrics, silhouettes)
    pictures = collapse_report.figures(results, metrics, silhouettes, folder / "figures")
    judged = verdict_table(verdicts, f"Claims at scale {scale}")
    trained = reporting.summaries(folder, [run.name for run in runs])
    reporting.write(folder, "exploration_collapse", scale, found, judged, verdicts, pictures, trained, _REMARK)
    reporting.show((*found.values(), judged), f"report:  {folder / 'report.md'}", f"figure:  {pictures[0]}")
    return verdicts


def _load(folder: Path, runs: list[Run]) -> tuple[Results, Results]:
    """Results and training curves by table; `run` and `cell` identify a row, `unit` numbers the cells of a table."""
    results: Results = {}
    metrics: Results = {}
    for table in dict.fromkeys(run.table for run in runs):
        rows, curves, first = [], [], 0
        for run in (run for run in runs if run.table == table):
            path = folder / "runs" / run.name
            rows.append(load_results(path).assign(run=run.name, unit=lambda f, first=first: f["cell"] + first))
            curves.append(load_metrics(path, ["cell", "env_steps", "cooperation_rate", "loss"]))
            curves[-1]["unit"] = curves[-1]["cell"] + first
            first += len(rows[-1])
        results[table], metrics[table] = (pd.concat(frames, ignore_index=True) for frames in (rows, curves))
    return results, metrics
