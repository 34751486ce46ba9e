"""Run a sweep: cells -> packs -> training -> results, resumable at any moment."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import numpy as np

from marl_bench.errors import RunError, UsageError
from marl_bench.experiments.cells import CellSpec, SweepConfig, expand
from marl_bench.learner import world_of
from marl_bench.runtime import checkpoint, files
from marl_bench.runtime.packs import Pack, describe_plan, make_packs, memory_for_packs, repeat_packs
from marl_bench.runtime.run_directory import RunDirectory, read_parquet, to_parquet
from marl_bench.runtime.runner import PackRunner, Timing, first_bad_leaf
from marl_bench.runtime.sinks import PackInfo, Sink, make_sinks

if TYPE_CHECKING:
    import pandas as pd

_DEFAULT_POINTS = 200
"""Points of a logged curve when `log_every` is not given."""

_PARTS_PER_PACK = 1_000_000
"""Numbers of metrics parts that each pack owns, so that one pack can be trained again without touching the others."""

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
            # None stands for a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
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
    trained_steps: int = 0


@dataclasses.dataclass
class _Parts:
    """The metrics parts of one pack: SHA-256 of those written, numbered from `first`.

    The checkpoint that refers to the parts keeps their digests: Parquet's own checksums leave its footer out.
    """

    folder: RunDirectory
    first: int
    digests: list[str] = dataclasses.field(default_factory=list)

    def intact(self, digests: Sequence[str]) -> bool:
        """Are these parts as they were written? Each that is not is named in a warning."""
        named = [(self.folder.part_path(self.first + offset), digest) for offset, digest in enumerate(digests)]
        bad = [path for path, digest in named if not _intact(path, digest)]
        for path in bad:
            _log.warning("%s: missing or damaged; going on from a checkpoint before it", path)
        return not bad

    def go_on_after(self, digests: Sequence[str]) -> None:
        """Keep these parts; delete the pack's others, written after the checkpoint to resume from."""
        self.digests = list(digests)
        keep, stop = self.first + len(digests), self.first + _PARTS_PER_PACK
        for path in [path for number, path in self.folder.parts().items() if keep <= number < stop]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise files.as_run_error(path, error) from error

    def append(self, rows: list[dict[str, np.ndarray]]) -> None:
        """Write the next part."""
        frame = _frame(rows)
        self.folder.append_metrics(self.first + len(self.digests), frame)
        self.digests.append(files.sha256(to_parquet(frame)))


def _intact(path: Path, digest: str) -> bool:
    return path.is_file() and files.sha256(path.read_bytes()) == digest


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
      checkpoint_seconds: wall-clock seconds between checkpoints; the end of a pack and SIGTERM write one, too.
    Returns:
      Columns by dotted path (`env.*`, `learner.*`, `seed`), then `env_steps`, `agent_steps`, `updates` and the
      learner's evaluation metrics (`cooperation_rate`, ...).
    Raises:
      UsageError: for a configuration that cannot run, or a directory with another one.
      RunError: for failures of the disk, or NaN in training (naming cell and leaf).
      Interrupted: after SIGTERM or SIGINT, once the state is saved.
    """
    specs = expand(config)
    steps = _check_steps(config, specs)
    sinks = make_sinks(out, config, wandb=wandb, wandb_cells=wandb_cells, quiet=quiet)
    with RunDirectory(out) as folder:
        # A plan that cannot be carried out must not leave a directory that belongs to it.
        planned = make_packs(specs, memory_for_packs()) if folder.state == "new" else None
        if (state := folder.start(config.to_mapping(), resume=resume)) == "finished":
            return folder.read_results()
        earlier = _earlier_packs(folder, specs) if state == "resumable" else planned
        packs = earlier or make_packs(specs, memory_for_packs())
        if not quiet:
            sys.stdout.write(describe_plan(packs, steps, memory_for_packs()) + "\n")
            sys.stdout.flush()
        folder.write_cells(_cells_table(specs, packs))
        with _Signals() as signals:
            run = _Run(folder, config, specs, sinks, signals, steps, checkpoint_seconds)
            done = [_run_pack(run, number, pack) for number, pack in enumerate(packs)]
        return _finish(run, [table for table, _ in done], [timing for _, timing in done])


def _check_steps(config: SweepConfig, specs: Sequence[CellSpec]) -> int:
    """Environment steps of each cell, checked with `log_every` against every learner before anything is written."""
    steps = config.steps if config.steps is not None else specs[0].learner.default_steps
    for learner in {id(spec.learner): spec.learner for spec in specs}.values():
        try:
            _chunk_updates(config, learner, learner.num_updates(steps))
        except ValueError as error:
            raise UsageError(str(error)) from error
    return steps


def _earlier_packs(folder: RunDirectory, specs: Sequence[CellSpec]) -> list[Pack] | None:
    """The packs that an earlier start planned and checkpointed, however much memory is free now."""
    try:
        table = folder.read_cells().sort_values(["pack", "row"])
        return repeat_packs(specs, [[int(cell) for cell in group["cell"]] for _, group in table.groupby("pack")])
    except (RunError, KeyError, ValueError) as error:
        _log.warning("%s; the packs are planned again", error)
        return None


def _cells_table(specs: Sequence[CellSpec], packs: Sequence[Pack]) -> pd.DataFrame:
    import pandas as pd

    where = {cell: (number, row) for number, pack in enumerate(packs) for row, cell in enumerate(pack.indices)}
    places = [dict(zip(("pack", "row"), where[spec.index], strict=True)) for spec in specs]
    return pd.DataFrame([{"cell": s.index, **s.columns, **place} for s, place in zip(specs, places, strict=True)])


def _chunk_updates(config: SweepConfig, learner: Any, num_updates: int) -> int:
    """Iterations between two logged points."""
    if config.log_every is None:
        return max(1, math.ceil(num_updates / _DEFAULT_POINTS))
    if config.log_every % learner.update_steps:
        raise UsageError(
            f"log_every={config.log_every}: must be a multiple of {learner.update_steps}, the steps of one update"
        )
    return min(config.log_every // learner.update_steps, num_updates)


def _run_pack(run: _Run, number: int, pack: Pack) -> tuple[pd.DataFrame, Timing]:
    """Train and evaluate one pack, or read its results back."""
    stored = run.folder.path / "packs" / f"pack-{number:04d}.parquet"
    directory = run.folder.checkpoint_directory(number)
    parts = _Parts(run.folder, number * _PARTS_PER_PACK)
    if (table := _stored_results(stored, pack, parts)) is not None:
        return table, Timing()
    learner = run.specs[pack.indices[0]].learner
    num_updates = learner.num_updates(run.steps)
    chunk = _chunk_updates(run.config, learner, num_updates)
    runner = PackRunner(pack)
    state, done = _restore(runner, directory, parts)
    for sink in run.sinks:
        sink.start(PackInfo(number, len(pack), list(pack.indices), done * learner.update_steps, run.steps))
    try:
        state = _train(run, runner, directory, parts, state, done, num_updates, chunk)
        metrics = runner.evaluate(state)
    except BaseException:
        for sink in run.sinks:
            sink.finish(None)
        raise
    run.trained_steps += (run.steps - num_updates * learner.update_steps) * len(pack)
    table = _results_table(run, pack, metrics, num_updates)
    for sink in run.sinks:
        sink.finish(table)
    _store_results(stored, table, parts)
    # Read back, so that a run that was stopped between packs gives the same bytes in the end.
    return read_parquet(stored), runner.timing


def _store_results(stored: Path, table: pd.DataFrame, parts: _Parts) -> None:
    """Write a pack's results, then the manifest that makes the pack a completed one."""
    data = to_parquet(table)
    stored.parent.mkdir(exist_ok=True)
    files.write_atomic(stored, data)
    manifest = {"results": files.sha256(data), "parts": parts.digests}
    files.write_atomic(stored.with_suffix(".json"), files.canonical_json(manifest))


def _stored_results(stored: Path, pack: Pack, parts: _Parts) -> pd.DataFrame | None:
    """Results of a pack that an earlier start completed; None if there are none, or something of them is lost."""
    if not stored.with_suffix(".json").exists():
        return None
    try:
        manifest = json.loads(stored.with_suffix(".json").read_bytes())
        digest, digests = str(manifest["results"]), list(manifest["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        digest, digests = "", []
    if not _intact(stored, digest):
        _log.warning("%s: missing or damaged; the pack is evaluated again", stored)
        return None
    table = read_parquet(stored)
    return table if list(table["cell"]) == list(pack.indices) and parts.intact(digests) else None


def _restore(runner: PackRunner, directory: Path, parts: _Parts) -> tuple[Any, int]:
    """The newest intact checkpoint whose metrics are intact too, or the start; drops metrics written after it."""

    def usable(metadata: dict[str, Any]) -> bool:
        if metadata.get("cells") != list(runner.pack.indices):
            _log.warning("%s: a checkpoint of other cells; ignored", directory)
            return False
        return parts.intact(metadata["parts"])

    found = checkpoint.restore(directory, runner.template(), usable)
    if found is not None:
        restored, metadata, done = found
        parts.go_on_after(metadata["parts"])
        return runner.place(restored), done
    parts.go_on_after([])
    return runner.start(), 0


def _train(
    run: _Run, runner: PackRunner, directory: Path, parts: _Parts, state: Any, done: int, num_updates: int, chunk: int
) -> Any:
    """Train to the end in chunks, logging each and checkpointing by the clock; returns the final state."""
    rows: list[dict[str, np.ndarray]] = []
    saved_at = time.monotonic()
    while done < num_updates:
        count = min(chunk, num_updates - done)
        state, metrics, finite = runner.train(state, count, done // chunk)
        done += count
        rows.append(_metric_rows(run, runner.pack, metrics, done))
        run.trained_steps += count * run.specs[runner.pack.indices[0]].learner.update_steps * len(runner.pack)
        for sink in run.sinks:
            sink.log(_frame(rows[-1:]))
        if not finite.all():
            _stop_on_nan(run, runner, state, metrics, finite, done)
        stop = run.signals.received
        if stop is not None or done == num_updates or time.monotonic() - saved_at > run.checkpoint_seconds:
            # The metrics first: a checkpoint refers only to what is on the disk.
            parts.append(rows)
            metadata = {"parts": parts.digests, "cells": list(runner.pack.indices)}
            checkpoint.save(directory, done, runner.unpadded(state), metadata)
            rows, saved_at = [], time.monotonic()
        if stop is not None:
            raise Interrupted(stop)
    return state


def _metric_rows(run: _Run, pack: Pack, metrics: dict[str, np.ndarray], done: int) -> dict[str, np.ndarray]:
    """Columns of one logged point: one row a cell."""
    first = run.specs[pack.indices[0]]
    env_steps = done * first.learner.update_steps
    counts = {
        "cell": np.asarray(pack.indices, np.int64),
        "updates": np.full(len(pack), done, np.int64),
        "env_steps": np.full(len(pack), env_steps, np.int64),
        "agent_steps": np.full(len(pack), env_steps * world_of(first.environment).num_agents, np.int64),
    }
    return {**counts, **{name: np.asarray(value, np.float32) for name, value in metrics.items()}}


def _frame(rows: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})


def _stop_on_nan(
    run: _Run, runner: PackRunner, state: Any, metrics: dict[str, np.ndarray], finite: np.ndarray, done: int
) -> NoReturn:
    """Save the failed state beside the good checkpoints and name the first bad cell and leaf."""
    cells, position = list(runner.pack.indices), int(np.flatnonzero(~finite)[0])
    spec = run.specs[cells[position]]
    try:
        path = checkpoint.save(run.folder.subfolder("failed"), done, runner.unpadded(state), {"cells": cells})
        saved = f"state saved in {path}"
    except RunError as error:
        saved = f"its state could not be saved ({error})"
    varying = [k for k, v in spec.columns.items() if k == "seed" or any(v != s.columns.get(k) for s in run.specs)]
    swept = ", ".join(f"{name}={spec.columns[name]}" for name in varying)
    others = f" (and {np.sum(~finite) - 1} more)" if np.sum(~finite) > 1 else ""
    raise RunError(
        f"NaN or infinity in {first_bad_leaf(state, metrics, position)} of cell {spec.index}{others} "
        f"({swept}) by update {done}; {saved}, earlier checkpoints are intact"
    )


def _results_table(run: _Run, pack: Pack, metrics: dict[str, np.ndarray], num_updates: int) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for position, cell in enumerate(pack.indices):
        spec = run.specs[cell]
        agent_steps = run.steps * world_of(spec.environment).num_agents
        counts = {"env_steps": run.steps, "agent_steps": agent_steps, "updates": num_updates}
        found = {k: (v[position].item() if v.ndim == 1 else v[position].tolist()) for k, v in metrics.items()}
        rows.append({"cell": cell, **spec.columns, **counts, **found})
    return pd.DataFrame(rows)


def _finish(run: _Run, tables: list[pd.DataFrame], timings: list[Timing]) -> pd.DataFrame:
    import pandas as pd

    results = pd.concat(tables, ignore_index=True).sort_values("cell", ignore_index=True)
    seconds = {f.name: round(sum(getattr(t, f.name) for t in timings), 3) for f in dataclasses.fields(Timing)}
    summary = {
        "versions": checkpoint.versions(),
        "git_revision": files.git_revision(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": jax.devices()[0].platform,
        "cells": len(run.specs),
        "packs": len(tables),
        "env_steps_per_cell": run.steps,
        **seconds,
        "trained_cell_steps": run.trained_steps,
        "cell_steps_per_second": round(run.trained_steps / max(seconds["run_seconds"], 1e-3), 1),
    }
    run.folder.finish(results, summary)
    return run.folder.read_results()
