"""Where metrics go besides the run directory: Weights & Biases and the terminal.

The files of the run directory are the record; a sink is a one-way copy that may fail or lag without
touching the training. Sinks are chosen before the start and never switch by themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from marl_bench.errors import UsageError
from marl_bench.naming import nearest
from marl_bench.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

WANDB_MODES = ("offline", "online", "disabled")
"""Modes of `WandbSink`."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PackInfo:
    """What a sink is told about a pack before it starts.

    Attributes:
      index: number of this pack in the run, from 0.
      num_cells: number of its cells.
      cells: their indices in the sweep.
      first_step: environment steps of each cell already done when the run is resumed; else 0.
      steps: environment steps of each cell in the whole run.
    """

    index: int
    num_cells: int
    cells: Sequence[int]
    first_step: int
    steps: int


class Sink(Protocol):
    """A receiver of metrics. No method may block for long or raise because of the outside world."""

    def start(self, pack_info: PackInfo) -> None:
        """A pack begins."""
        ...

    def log(self, rows: pd.DataFrame) -> None:
        """Metrics of one chunk: columns `cell`, `env_steps`, `agent_steps`, `updates` and the metrics."""
        ...

    def finish(self, results: pd.DataFrame | None) -> None:
        """The pack ended, with one row per cell; None when it was stopped."""
        ...


# --- Weights & Biases --------------------------------------------------------------------------------


class WandbSink:
    """One W&B run per pack (curves are means over its cells, plus a table of cells), written by its own thread.

    Every failure is reported once, as a warning, and ends the copying; the training goes on. A full queue
    drops rows rather than wait.

    Run ids are made of the configuration's digest, so an online run that is resumed stays one run.

    Args:
      mode: "offline" (files below the run directory, no account, no network), "online" or "disabled".
      per_cell: also write one W&B run per cell when a pack has ended, from the metrics in the run directory.
      directory: the run directory.
      digest: SHA-256 of the run's configuration.
      config: what W&B shows as the run's configuration.
      queue_size: chunks that may wait.
      finish_timeout: seconds to wait for W&B when a pack has ended.
    Raises:
      UsageError: for an unknown mode.
    """

    def __init__(
        self,
        mode: str,
        per_cell: bool = False,
        *,
        directory: Path,
        digest: str,
        config: Mapping[str, Any] | None = None,
        queue_size: int = 256,
        finish_timeout: float = 60.0,
    ):
        if mode not in WANDB_MODES:
            raise UsageError(f"wandb={mode!r}: must be one of {', '.join(WANDB_MODES)}{nearest(mode, WANDB_MODES)}")
        self._options = _WandbOptions(mode, per_cell, directory, digest, dict(config or {}))
        self._queue_size = queue_size
        self._finish_timeout = finish_timeout
        self._broken = mode == "disabled"
        self._failing = threading.Lock()
        self._queue: queue.Queue[tuple[str, Any]] | None = None
        self._thread: threading.Thread | None = None

    def start(self, pack_info: PackInfo) -> None:
        """Start the thread that opens the W&B run of this pack."""
        if self._broken:
            return
        self._queue = queue.Queue(self._queue_size)
        self._thread = threading.Thread(
            target=self._work, args=(pack_info, self._queue), name="marl-bench-wandb", daemon=True
        )
        self._thread.start()

    def log(self, rows: pd.DataFrame) -> None:
        """Queue the rows of one chunk; drop them when the queue is full."""
        if self._broken or self._queue is None:
            return
        try:
            self._queue.put_nowait(("log", rows))
        except queue.Full:
            self._fail("it is too slow or hangs; metrics are no longer sent")

    def finish(self, results: pd.DataFrame | None) -> None:
        """Queue the results and wait for the thread, at most `finish_timeout` seconds."""
        if self._queue is None or self._thread is None:
            return
        if not self._broken:
            deadline = time.monotonic() + self._finish_timeout
            with contextlib.suppress(queue.Full):
                self._queue.put(("finish", results), timeout=self._finish_timeout)
            self._thread.join(max(deadline - time.monotonic(), 0.0))
            if self._thread.is_alive():
                self._fail(f"it did not finish within {self._finish_timeout:g} s")
        self._queue = self._thread = None

    def _fail(self, reason: str) -> None:
        # Both threads can fail at once, and the one that sees the flag must find the warning written.
        with self._failing:
            if not self._broken:
                _log.warning("W&B: %s; the run goes on, its files are complete", reason)
                self._broken = True

    def _work(self, info: PackInfo, inbox: queue.Queue[tuple[str, Any]]) -> None:
        try:
            _WandbWriter(self._options, info).serve(inbox, lambda: self._broken)
        except ImportError:
            self._fail("not installed (pip install wandb, or --wandb disabled)")
        except (Exception, SystemExit) as error:
            # Whatever goes wrong in somebody else's client must not reach the training.
            reason = " ".join(str(error).split()) or type(error).__name__
            self._fail(f"failed ({reason[:200]})")


@dataclasses.dataclass(frozen=True)
class _WandbOptions:
    mode: str
    per_cell: bool
    directory: Path
    digest: str
    config: dict[str, Any]


class _WandbWriter:
    """The thread's side: owns the W&B run, is the only caller of the client."""

    def __init__(self, options: _WandbOptions, info: PackInfo):
        import wandb

        self._wandb: Any = wandb
        self._options = options
        self._info = info
        self._run: Any = self._open("", {**options.config, "pack": info.index, "cells_in_pack": info.num_cells})

    def _open(self, suffix: str, config: dict[str, Any]) -> Any:
        options = self._options
        name = f"{options.digest[:16]}-p{self._info.index:04d}{suffix}"
        settings = self._wandb.Settings(console="off", silent=True, init_timeout=60, login_timeout=5)
        return self._wandb.init(
            project="marl-bench",
            id=name,
            name=name,
            group=options.digest[:16],
            dir=str(options.directory),
            mode=options.mode,
            resume="allow",
            reinit="create_new",
            config={**config, "digest": options.digest},
            settings=settings,
        )

    def serve(self, inbox: queue.Queue[tuple[str, Any]], stopped: Callable[[], bool]) -> None:
        while not stopped():
            try:
                kind, content = inbox.get(timeout=1.0)
            except queue.Empty:
                continue
            if kind == "finish":
                self._end(content)
                return
            means = content.drop(columns="cell", errors="ignore").groupby("env_steps").mean(numeric_only=True)
            self._send(self._run, means.reset_index())

    def _send(self, run: Any, rows: pd.DataFrame) -> None:
        for row in rows.to_dict("records"):
            run.log(row, step=int(row["env_steps"]))

    def _end(self, results: pd.DataFrame | None) -> None:
        if results is not None:
            rows = results.astype(object).where(results.notna(), None).to_numpy().tolist()
            columns = [str(name) for name in results.columns]
            self._run.log({"cells": self._wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})
        self._run.finish()
        if results is not None and self._options.per_cell:
            self._write_cells(results)

    def _write_cells(self, results: pd.DataFrame) -> None:
        metrics = RunDirectory(self._options.directory).read_metrics()
        for cell in results.to_dict("records"):
            run = self._open(f"-c{cell['cell']:06d}", {str(key): value for key, value in cell.items()})
            if len(metrics):
                self._send(run, metrics.loc[metrics["cell"] == cell["cell"]].drop(columns="cell"))
            run.finish()


# --- terminal ------------------------------------------------------------------------------------------


class ConsoleSink:
    """Progress on stderr: a bar with steps/s and time left on a terminal, plain lines otherwise.

    Steps are environment steps summed over the cells of the pack.

    Args:
      stream: where to write; stderr by default.
      interval: seconds between plain lines.
      clock: monotonic seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ):
        self._stream = sys.stderr if stream is None else stream
        self._interval = interval
        self._clock = clock
        self._info: PackInfo | None = None
        self._bar: Any = None
        self._task: Any = None
        self._started = self._printed = 0.0
        self._done = 0

    def start(self, pack_info: PackInfo) -> None:
        """Show the bar, or the first line."""
        self._info = pack_info
        self._started = self._printed = self._clock()
        self._done = pack_info.first_step
        label = f"pack {pack_info.index}, {pack_info.num_cells} cells"
        if self._stream.isatty():
            self._open_bar(label, pack_info)
        else:
            self._print(f"{label}: {pack_info.first_step} of {pack_info.steps} steps")

    def _open_bar(self, label: str, info: PackInfo) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TextColumn("{task.fields[left]} left"),
            console=Console(file=self._stream),
        )
        self._task = self._bar.add_task(label, total=info.steps, completed=info.first_step, speed="", left="?")
        self._bar.start()

    def log(self, rows: pd.DataFrame) -> None:
        """Advance to the largest `env_steps` of the rows."""
        if self._info is None or len(rows) == 0:
            return
        self._done = max(self._done, int(rows["env_steps"].to_numpy().max()))
        now = self._clock()
        speed, left = self._pace(self._info, now - self._started)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, speed=speed, left=left)
        elif now - self._printed >= self._interval:
            self._printed = now
            self._print(f"pack {self._info.index}: {self._done} of {self._info.steps} steps, {speed}, {left} left")

    def _pace(self, info: PackInfo, seconds: float) -> tuple[str, str]:
        """Steps per second over all cells, and the time left, as texts."""
        steps = self._done - info.first_step
        if seconds <= 0 or steps <= 0:
            return "? steps/s", "?"
        left = (info.steps - self._done) * seconds / steps
        return f"{steps * info.num_cells / seconds:,.0f} steps/s", duration(left)

    def finish(self, results: pd.DataFrame | None) -> None:
        """Take the bar away, or print the last line."""
        if self._info is None:
            return
        info, self._info = self._info, None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            return
        seconds = self._clock() - self._started
        word = "stopped" if results is None else "done"
        self._print(f"pack {info.index}: {word} at {self._done} steps after {duration(seconds)}")

    def _print(self, line: str) -> None:
        # A closed pipe must not end the training.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as `12s`, `3m05s` or `2h07m`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Configuration(Protocol):
    """What a sink needs of the run's configuration (`marl_bench.experiments.cells.SweepConfig`)."""

    def digest(self) -> str:
        """SHA-256 (hex)."""
        ...

    def to_mapping(self) -> dict[str, Any]:
        """The resolved settings by dotted path."""
        ...


def make_sinks(
    directory: Path | str,
    config: Configuration,
    *,
    wandb: str = "offline",
    wandb_cells: bool = False,
    quiet: bool = False,
) -> list[Sink]:
    """The sinks of a run, as the command line asks for them.

    Args:
      directory: the run directory.
      config: the run's configuration.
      wandb: "offline", "online" or "disabled".
      wandb_cells: also one W&B run per cell.
      quiet: no progress on the terminal.
    Raises:
      UsageError: for an unknown W&B mode.
    """
    tracking = WandbSink(
        wandb, wandb_cells, directory=Path(directory), digest=config.digest(), config=config.to_mapping()
    )
    return [tracking] if quiet else [ConsoleSink(), tracking]
