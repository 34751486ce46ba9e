"""Run a sweep: cells -> packs -> training -> results, resumable at any moment."""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from marl_bench.errors import RunError, UsageError
from marl_bench.experiments.cells import CellSpec, SweepConfig, expand
from marl_bench.runtime import checkpoint, devices, files
from marl_bench.runtime.packs import Pack, describe_plan, make_packs
from marl_bench.runtime.run_directory import RunDirectory, read_parquet, to_parquet
from marl_bench.runtime.runner import PackRunner, Timing, first_bad_leaf
from marl_bench.runtime.sinks import PackInfo, Sink, make_sinks

if TYPE_CHECKING:
    import pandas as pd

_DEFAULT_POINTS = 200
"""Points of a logged curve when `log_every` is not given."""

_log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A termination signal arrived; the run was saved. `code` is the exit status (128 + signal)."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; continue with --resume")
        self.code = 128 + number


class _Signals:
    """Remembers the first SIGTERM or SIGINT; a second one has its usual effect."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._remember)
            except ValueError:  # not in the main thread: the host program handles signals
                break
        return self

    def _remember(self, number: int, frame: Any) -> None:
        del frame
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *error: object) -> None:
        self._restore()


@dataclasses.dataclass
class _Run:
    """What the functions below share about one run."""

    folder: RunDirectory
    config: SweepConfig
    specs: Sequence[CellSpec]
    sinks: Sequence[Sink]
    signals: _Signals
    steps: int
    checkpoint_seconds: float
    next_part: int = 0


def run_sweep(
    config: SweepConfig,
    out: Path | str,
    *,
    resume: bool = False,
    wandb: str = "offline",
    wandb_cells: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 60.0,
) -> pd.DataFrame:
    """Train every cell of `config` and return its results, one row a cell.

    Cells of one tree structure are stacked into packs, and each pack is one compiled program. The run directory
    holds everything; a finished one is read back at once.

    Args:
      config: the sweep.
      out: run directory, made if missing.
      resume: continue an unfinished run of the same configuration.
      wandb: "offline", "online" or "disabled".
      wandb_cells: one W&B run a cell, besides the one a pack.
      quiet: no progress and no plan on the terminal.
      checkpoint_seconds: wall-clock seconds between checkpoints; one is also written at the end of each pack and on SIGTERM.
    Returns:
      Columns by dotted path (`env.*`, `learner.*`, `seed`), then `env_steps`, `agent_steps`, `updates` and the
      learner's evaluation metrics (`cooperation_rate`, ...).
    Raises:
      UsageError: for a configuration that cannot run, or a directory with another one.
      RunError: for failures of the disk, or NaN in training (naming cell and leaf).
      Interrupted: after SIGTERM or SIGINT, once the state is saved.
    """
    specs = expand(config)
    steps = _total_steps(config, specs)
    with RunDirectory(out) as folder:
        if folder.start(config.to_mapping(), resume=resume) == "finished":
            return folder.read_results()
        free = devices.free_bytes(jax.devices()[0])
        packs = make_packs(specs, free)
        if not quiet:
            print(describe_plan(packs, steps, free), flush=True)
        folder.write_cells(_cells_table(specs, packs))
        sinks = make_sinks(folder.path, config, wandb=wandb, wandb_cells=wandb_cells, quiet=quiet)
        with _Signals() as signals:
            run = _Run(folder, config, specs, sinks, signals, steps, checkpoint_seconds)
            tables, timings = [], []
            for number, pack in enumerate(packs):
                table, timing = _run_pack(run, number, pack)
                tables.append(table)
                timings.append(timing)
        return _finish(run, packs, tables, timings)


def git_revision() -> str | None:
    """Revision of the checkout this package runs from (with "-dirty" if changed); None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _total_steps(config: SweepConfig, specs: Sequence[CellSpec]) -> int:
    """Environment steps of each cell, checked against every learner before anything is compiled."""
    steps = config.steps if config.steps is not None else specs[0].learner.default_steps
    for learner in {id(spec.learner): spec.learner for spec in specs}.values():
        try:
            learner.num_updates(steps)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return steps


def _cells_table(specs: Sequence[CellSpec], packs: Sequence[Pack]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame([{"cell": spec.index, **spec.columns} for spec in specs])
    where = {cell: (number, row) for number, pack in enumerate(packs) for row, cell in enumerate(pack.indices)}
    table["pack"] = [where[cell][0] for cell in table["cell"]]
    table["row"] = [where[cell][1] for cell in table["cell"]]
    return table


def _chunk_updates(config: SweepConfig, learner: Any, num_updates: int) -> int:
    """Iterations between two logged points."""
    if config.log_every is None:
        return max(1, math.ceil(num_updates / _DEFAULT_POINTS))
    if config.log_every % learner.update_steps:
        raise UsageError(f"log_every={config.log_every}: must be a multiple of {learner.update_steps}, the steps of one update")
    return min(config.log_every // learner.update_steps, num_updates)


def _run_pack(run: _Run, number: int, pack: Pack) -> tuple[pd.DataFrame, Timing]:
    """Train and evaluate one pack, or read its results back."""
    stored = run.folder.path / "packs" / f"pack-{number:04d}.parquet"
    directory = run.folder.checkpoint_directory(number)
    if stored.exists():
        try:
            table = read_parquet(stored)
            run.next_part = max(run.next_part, int(table["next_part"].iloc[0]))
            return table.drop(columns="next_part"), Timing()
        except RunError as error:
            _log.warning("%s; evaluating the pack again", error)
    learner = run.specs[pack.indices[0]].learner
    num_updates = learner.num_updates(run.steps)
    chunk = _chunk_updates(run.config, learner, num_updates)
    runner = PackRunner(pack)
    state, done = _restore(run, runner, directory)
    info = PackInfo(number, len(pack), list(pack.indices), done * learner.update_steps, run.steps)
    for sink in run.sinks:
        sink.start(info)
    try:
        state = _train(run, runner, directory, state, done, num_updates, chunk)
    except BaseException:
        for sink in run.sinks:
            sink.finish(None)
        raise
    metrics = runner.evaluate(state)
    table = _results_table(run, pack, metrics, num_updates)
    for sink in run.sinks:
        sink.finish(table)
    stored.parent.mkdir(exist_ok=True)
    files.write_atomic(stored, to_parquet(table.assign(next_part=run.next_part)))
    return table, runner.timing


def _restore(run: _Run, runner: PackRunner, directory: Path) -> tuple[Any, int]:
    """The newest intact checkpoint of a pack, or its start; drops metrics that were written after it."""
    state = runner.start()
    found = checkpoint.restore(directory, state)
    if found is None:
        run.folder.drop_parts_from(run.next_part)
        return state, 0
    restored, metadata, done = found
    bad = [part for part in run.folder.bad_parts(int(metadata["next_part"])) if part >= run.next_part]
    if bad:
        # The rows of a lost part can only be had by training again.
        _log.warning("metrics part %d of this pack is lost; the pack is trained again from the start", bad[0])
        run.folder.drop_parts_from(run.next_part)
        return state, 0
    run.next_part = int(metadata["next_part"])
    run.folder.drop_parts_from(run.next_part)
    return runner.place(restored), done


def _train(run: _Run, runner: PackRunner, directory: Path, state: Any, done: int, num_updates: int, chunk: int) -> Any:
    """Train to the end in chunks, logging each and checkpointing by the clock; returns the final state."""
    rows: list[dict[str, np.ndarray]] = []
    saved_at, saved = time.monotonic(), done
    while done < num_updates:
        count = min(chunk, num_updates - done)
        state, metrics, finite = runner.train(state, count)
        done += count
        rows.append(_metric_rows(run, runner.pack, metrics, done))
        for sink in run.sinks:
            sink.log(_frame(rows[-1:]))
        if not finite.all():
            _stop_on_nan(run, runner.pack, state, metrics, finite, done)
        if run.signals.received is not None or time.monotonic() - saved_at > run.checkpoint_seconds:
            _save(run, directory, state, rows, done)
            rows, saved_at, saved = [], time.monotonic(), done
        if run.signals.received is not None:
            raise Interrupted(run.signals.received)
    if saved < done:
        _save(run, directory, state, rows, done)
    return state


def _save(run: _Run, directory: Path, state: Any, rows: list[dict[str, np.ndarray]], done: int) -> None:
    """Write the metrics since the last checkpoint, then the checkpoint that refers to them."""
    if rows:
        run.folder.append_metrics(run.next_part, _frame(rows))
        run.next_part += 1
    checkpoint.save(directory, done, state, {"next_part": run.next_part})


def _metric_rows(run: _Run, pack: Pack, metrics: dict[str, np.ndarray], done: int) -> dict[str, np.ndarray]:
    """Columns of one logged point: one row a cell."""
    first = run.specs[pack.indices[0]]
    env_steps = done * first.learner.update_steps
    counts = {
        "cell": np.asarray(pack.indices, np.int64),
        "updates": np.full(len(pack), done, np.int64),
        "env_steps": np.full(len(pack), env_steps, np.int64),
        "agent_steps": np.full(len(pack), env_steps * first.environment.num_agents, np.int64),
    }
    return {**counts, **{name: np.asarray(value, np.float32) for name, value in metrics.items()}}


def _frame(rows: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})


def _stop_on_nan(run: _Run, pack: Pack, state: Any, metrics: dict[str, np.ndarray], finite: np.ndarray, done: int) -> None:
    """Save the failed state beside the good checkpoints and name the first bad cell and leaf."""
    position = int(np.flatnonzero(~finite)[0])
    spec = run.specs[pack.indices[position]]
    leaf = first_bad_leaf(state, metrics, position)
    path = checkpoint.save(run.folder.subfolder("failed"), done, state, {"cells": list(pack.indices)})
    swept = ", ".join(f"{k}={v}" for k, v in spec.columns.items() if k in _varying(run.specs) or k == "seed")
    raise RunError(
        f"NaN or infinity in {leaf} of cell {spec.index} ({swept}) by update {done}; state saved in {path}, "
        "earlier checkpoints are intact"
    )


def _varying(specs: Sequence[CellSpec]) -> set[str]:
    return {name for name in specs[0].columns if len({str(spec.columns.get(name)) for spec in specs}) > 1}


def _results_table(run: _Run, pack: Pack, metrics: dict[str, np.ndarray], num_updates: int) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for position, cell in enumerate(pack.indices):
        spec = run.specs[cell]
        agent_steps = run.steps * spec.environment.num_agents
        counts = {"env_steps": run.steps, "agent_steps": agent_steps, "updates": num_updates}
        found = {k: (v[position].item() if v.ndim == 1 else v[position].tolist()) for k, v in metrics.items()}
        rows.append({"cell": cell, **spec.columns, **counts, **found})
    return pd.DataFrame(rows)


def _finish(run: _Run, packs: Sequence[Pack], tables: list[pd.DataFrame], timings: list[Timing]) -> pd.DataFrame:
    import pandas as pd

    results = pd.concat(tables, ignore_index=True).sort_values("cell", ignore_index=True)
    seconds = {f.name: round(sum(getattr(t, f.name) for t in timings), 3) for f in dataclasses.fields(Timing)}
    cell_steps = run.steps * len(run.specs)
    summary = {
        "versions": checkpoint.versions(),
        "git_revision": git_revision(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": jax.devices()[0].platform,
        "cells": len(run.specs),
        "packs": len(packs),
        "env_steps_per_cell": run.steps,
        **seconds,
        "cell_steps_per_second": round(cell_steps / seconds["run_seconds"], 1) if seconds["run_seconds"] else None,
    }
    run.folder.finish(results, summary)
    return results
