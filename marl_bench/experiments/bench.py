"""`marl-bench bench dqn`: cell-steps per second against a plain NumPy implementation, in one process.

Both run the same specification: 900 agents, default hyperparameters, training steps with their gradient steps. The unit is CPU time
per cell-step (process time over all threads), so that a baseline on one core and a program on several compare fairly;
wall-clock rates stand beside it, compilation apart.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.errors import UsageError
from marl_bench.naming import nearest

_REPEATS = 5
_NUMPY_STEPS = 400
_CELL_STEPS = 24_000


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Cost of one cell-step.

    Attributes:
      label: what ran.
      cells: number of cells trained at once.
      cpu_microseconds: [repeats] process time a cell-step.
      wall_microseconds: [repeats] wall-clock time a cell-step.
      compile_seconds: tracing, lowering and compiling, not part of the above.
    """

    label: str
    cells: int
    cpu_microseconds: list[float]
    wall_microseconds: list[float]
    compile_seconds: float


def main(name: str, packs: list[int], out: Path | None) -> int:
    """Run the benchmark `name` ("dqn") for the given pack sizes, print a table, and write JSON to `out`.

    Returns:
      0.
    Raises:
      UsageError: for an unknown benchmark or a pack size below 1.
    """
    if name != "dqn":
        known = ["dqn", "envs", "learners", "offline", "swarms"]
        raise UsageError(f"unknown benchmark {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    if not packs or min(packs) < 1:
        raise UsageError(f"--packs {','.join(map(str, packs))}: every pack needs at least one cell")
    runners = [_prepare(size) for size in packs]
    baseline = _numpy_trainer()
    measured: list[Measurement] = []
    numpy_times: list[tuple[float, float]] = []
    pack_times: list[list[tuple[float, float]]] = [[] for _ in packs]
    # Interleaved, so that a drift of the machine's speed hits all of them.
    for _ in range(_REPEATS):
        numpy_times.append(_timed(lambda: baseline.run(_NUMPY_STEPS), _NUMPY_STEPS))
        for runner, times in zip(runners, pack_times, strict=True):
            times.append(_timed(runner.chunk, runner.cell_steps))
    measured.append(_measurement("NumPy, one cell", 1, numpy_times, 0.0))
    for size, runner, times in zip(packs, runners, pack_times, strict=True):
        measured.append(_measurement(f"marl-bench, pack of {size}", size, times, runner.compile_seconds))
    record = _record(measured)
    print(_as_markdown(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


def _timed(function: Any, cell_steps: int) -> tuple[float, float]:
    """(CPU, wall) microseconds a cell-step of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return (time.process_time() - cpu) / cell_steps * 1e6, (time.perf_counter() - wall) / cell_steps * 1e6


def _measurement(label: str, cells: int, times: list[tuple[float, float]], compile_seconds: float) -> Measurement:
    cpu, wall = zip(*times, strict=True)
    return Measurement(label, cells, list(cpu), list(wall), compile_seconds)


def _numpy_trainer() -> Any:
    from marl_bench.envs.graphs import torus
    from marl_bench.experiments.numpy_dqn import NumpyDQN, donation_payoff

    trainer = NumpyDQN(torus(30), donation_payoff(0.25).astype(np.float32))
    trainer.run(_NUMPY_STEPS)  # fill the replay
    return trainer


@dataclasses.dataclass
class _Trainer:
    runner: Any
    state: Any
    updates: int
    cell_steps: int
    compile_seconds: float

    def chunk(self) -> None:
        self.state, _, _ = self.runner.train(self.state, self.updates)


def _prepare(size: int) -> _Trainer:
    """Compile and warm up a pack of `size` cells that differ in dilemma strength and temperature."""
    from marl_bench.experiments.cells import SweepConfig, expand
    from marl_bench.runtime.packs import make_packs
    from marl_bench.runtime.runner import PackRunner

    config = SweepConfig(
        "network_dilemma",
        "dqn",
        {"dilemma_strength": [0.25]},
        {"initial_temperature": [float(t) for t in np.linspace(0.1, 0.8, size)]},
    )
    (pack,) = make_packs(expand(config))
    runner = PackRunner(pack)
    updates = max(50, _CELL_STEPS // (4 * size))
    state, _, _ = runner.train(runner.start(), updates)
    seconds = runner.timing.lower_seconds + runner.timing.compile_seconds
    return _Trainer(runner, state, updates, updates * 4 * size, seconds)


def _record(measured: list[Measurement]) -> dict[str, Any]:
    import jax

    from marl_bench.runtime.checkpoint import versions

    base = np.array(measured[0].cpu_microseconds)
    rows = []
    for item in measured:
        ratio = base / np.array(item.cpu_microseconds)
        rows.append(
            {
                **dataclasses.asdict(item),
                "cpu_speedup_median": float(np.median(ratio)),
                "cpu_speedup_range": [float(ratio.min()), float(ratio.max())],
                "cell_steps_per_second": 1e6 / float(np.median(item.wall_microseconds)),
            }
        )
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": "marl-bench bench dqn --packs " + ",".join(str(m.cells) for m in measured[1:]),
        "platform": jax.devices()[0].platform,
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "rows": rows,
    }


def _as_markdown(record: dict[str, Any]) -> str:
    lines = [
        f"{record['command']} ({record['date']}, {record['cores']} cores, {record['platform']}, jax {record['versions']['jax']})",
        "",
        "| | CPU us a cell-step | wall us a cell-step | cell-steps/s | speed-up per CPU time (min-max) | compile s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        low, high = row["cpu_speedup_range"]
        lines.append(
            f"| {row['label']} | {np.median(row['cpu_microseconds']):.1f} | {np.median(row['wall_microseconds']):.1f} "
            f"| {row['cell_steps_per_second']:,.0f} | {row['cpu_speedup_median']:.1f}x ({low:.1f}-{high:.1f}) "
            f"| {row['compile_seconds']:.1f} |"
        )
    return "\n".join(lines)
