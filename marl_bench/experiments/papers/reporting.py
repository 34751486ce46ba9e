"""What every reproduction does alike: it trains its runs one after the other, and writes tables, verdicts and one report."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marl_bench.errors import UsageError
from marl_bench.experiments.cells import SweepConfig
from marl_bench.experiments.sweep import run_sweep
from marl_bench.naming import nearest
from marl_bench.report.tables import Table
from marl_bench.report.verdicts import Verdict
from marl_bench.runtime.devices import usable_cores
from marl_bench.runtime.files import write_atomic

SCALES = ("smoke", "reduced", "paper")
"""Sizes of a reproduction: minutes, an hour, the full protocol."""


def check_scale(scale: str) -> None:
    """Raises UsageError for a scale that is not one of `SCALES`."""
    if scale not in SCALES:
        raise UsageError(f"--scale {scale}: must be one of {', '.join(SCALES)}{nearest(scale, SCALES)}")


def train(runs: Iterable[tuple[str, str, SweepConfig]], folder: Path, *, resume: bool, wandb: str) -> None:
    """Train and evaluate (name, title to print, configuration) into `folder`/runs/name. Raises RunError when a run fails."""
    for name, title, config in runs:
        print(title, flush=True)
        run_sweep(config, folder / "runs" / name, resume=resume, wandb=wandb)


def show(tables: Iterable[Table], *lines: str) -> None:
    """Print tables, then lines such as the places of files."""
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table.to_rich())
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def summaries(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`summary.json` of each named run in `folder`/runs."""
    return {name: json.loads((folder / "runs" / name / "summary.json").read_text()) for name in names}


def processor() -> str:
    """Name of this machine's processor and the number of those that programs may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {usable_cores()} usable"


def write(
    folder: Path,
    title: str,
    scale: str,
    found: Mapping[str, Table],
    judged: Table,
    verdicts: Sequence[Verdict],
    pictures: Sequence[Path],
    runs: Mapping[str, Mapping[str, Any]],
    remark: str,
) -> None:
    """Write Markdown and CSV tables, verdicts as JSON, and one Markdown report that holds them all.

    Args:
      folder: where to. title: of the study, its name on the command line.
      scale: of the study.
      found: tables by file name. judged: table of the verdicts.
      verdicts: of the claims.
      pictures: PNG files in `folder`/figures.
      runs: summary of each run, as `summaries` reads them.
      remark: what a reader must know about all of it.
    """
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for name, table in {**found, "verdicts": judged}.items():
        write_atomic(folder / "tables" / f"{name}.md", table.to_markdown().encode())
        write_atomic(folder / "tables" / f"{name}.csv", table.to_csv().encode())
    write_atomic(folder / "verdicts.json", json.dumps([v.record() for v in verdicts], indent=2).encode())
    first = next(iter(runs.values()))
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    lines = [
        f"# {title} at scale {scale}",
        "",
        f"Command: `marl-bench reproduce {title} --scale {scale} --out DIR`, {time.strftime('%Y-%m-%d', time.gmtime())}.",
        f"Devices: {len(first['devices'])} x {first['devices'][0]} ({processor()}). Versions: {versions}. "
        f"Revision: {first['git_revision']}.",
        "",
        "| run | cells | steps a cell | compile s | run s | cell-steps/s |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {s['cells']} | {s['env_steps_per_cell']} | {s['compile_seconds']:.0f} | {s['run_seconds']:.0f} | {s['cell_steps_per_second']} |"
            for name, s in runs.items()
        ),
        "",
        f"{remark} Seconds are those of the last start of each run.",
        "",
        judged.to_markdown(),
        *(f"\n![{path.stem}](figures/{path.name})" for path in pictures),
        *(f"\n{table.to_markdown()}" for table in found.values()),
    ]
    write_atomic(folder / "report.md", ("\n".join(lines) + "\n").encode())
