"""`marl-bench bench swarms`: what a step of a swarm costs, by the number of agents.

The radius shrinks with the number of agents so that an agent has 20 neighbours on average (`fixed_degree`). The clock is CPU time over all
threads on a CPU, wall-clock time elsewhere; compilation is not part of it. The exponent is the slope of a straight line through the
logarithms of the least times.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.errors import UsageError
from marl_bench.naming import nearest

NEIGHBOURS = 20
"""Mean number of neighbours."""

REPEATS, WINDOW = 5, 300_000
"""Windows, and agents times steps in one of them (at least one step)."""

WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vicsek_torus": ("vicsek", {}),
    "vicsek_klein": ("vicsek", {"surface": "klein"}),
    "vicsek_rp2": ("vicsek", {"surface": "rp2"}),
    "kuramoto": ("kuramoto", {}),
    "aggregation": ("aggregation", {}),
}
"""Name here -> name and fields of the world."""


def sized(name: str, agents: int) -> Any:
    """The world `name` of `WORLDS` with so many agents, of which each sees `NEIGHBOURS` on average, if it sees any."""
    from marl_bench.registry import make

    world, fields = WORLDS[name]
    if world == "aggregation":
        return make(world, agents=agents, **fields)
    radius = math.sqrt(NEIGHBOURS / (math.pi * agents))
    return make(world, agents=agents, radius=radius, cells=int(1 / radius), **fields)


def step_seconds(env: Any) -> list[float]:
    """[REPEATS] seconds that a step takes, each the mean of a window of steps with random actions."""
    import jax

    clock = time.process_time if jax.devices()[0].platform == "cpu" else time.perf_counter
    key = jax.random.key(0)
    state, _ = jax.jit(env.reset)(key)
    actions = jax.random.uniform(key, env.action_spec.shape, minval=-1.0)
    step = jax.jit(lambda state: env.step(state, actions))
    state, _ = jax.block_until_ready(step(state))
    steps, seconds = max(1, WINDOW // env.num_agents), []
    for _ in range(REPEATS):
        start = clock()
        for _ in range(steps):
            state, _ = jax.block_until_ready(step(state))
        seconds.append((clock() - start) / steps)
    return seconds


def exponent(agents: list[int], seconds: list[float]) -> float:
    """Slope of log seconds over log agents by least squares."""
    return float(np.polyfit(np.log(agents), np.log(seconds), 1)[0])


def main(agents: list[int], only: str | None, out: Path | None) -> int:
    """Measure the worlds, print a table, and write JSON to `out`, and beside it a plot (.png).

    Args:
      agents: numbers of agents; at least two different ones.
      only: names of `WORLDS`, separated by commas; None for all.
    Returns:
      0.
    Raises:
      UsageError: for an unknown world or too few numbers.
    """
    import jax

    from marl_bench.runtime.checkpoint import versions

    names = list(WORLDS) if only is None else [word.strip() for word in only.split(",")]
    for name in names:
        if name not in WORLDS:
            raise UsageError(f"--only {name}: unknown{nearest(name, list(WORLDS))} (known: {', '.join(WORLDS)})")
    agents = sorted(set(agents))
    if len(agents) < 2 or agents[0] < 1000:
        raise UsageError(f"--agents {','.join(map(str, agents))}: needs two different numbers of at least 1000")
    rows = []
    for name in names:
        times = [step_seconds(sized(name, count)) for count in agents]
        least = [min(seconds) for seconds in times]
        rows.append({"name": name, "seconds": times, "exponent": exponent(agents, least)})
        print(f"{name}: {', '.join(f'{value:.3g}' for value in least)} s a step, exponent {rows[-1]['exponent']:.2f}")
    platform_name = jax.devices()[0].platform
    record = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"marl-bench bench swarms --agents {','.join(map(str, agents))} --only {','.join(names)}",
        "platform": platform_name,
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "clock": "CPU time" if platform_name == "cpu" else "wall-clock time",
        "neighbours": NEIGHBOURS,
        "agents": agents,
        "rows": rows,
    }
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        plot(record, Path(out))
    return 0


def plot(record: dict[str, Any], out: Path) -> None:
    """Draw seconds a step over agents into `out` with the endings .png and .svg."""
    from marl_bench.report import canvas

    figure, (axes,) = canvas.new_figure(6.4, 3.6)
    handles = []
    for index, row in enumerate(record["rows"]):
        least = [min(seconds) for seconds in row["seconds"]]
        label = f"{row['name']}: exponent {row['exponent']:.2f}"
        handles += axes.loglog(record["agents"], least, "o-", color=canvas.PALETTE[index], ms=4, label=label)
    canvas.label_axes(axes, "agents", f"seconds a step ({record['clock']})")
    canvas.place_legend(axes, handles)
    canvas.save_figure(figure, out.parent, out.stem)
