"""`marl-bench bench learners`: training speed against the same algorithm on a peer's environment, in one process.

World, network, batch, epochs, minibatches and number of updates are the same on both sides, both are one compiled program, and
windows alternate. On a CPU the measure is CPU time over all threads, elsewhere wall-clock time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.errors import UsageError
from marl_bench.experiments.bench_envs import rate, uncached
from marl_bench.naming import nearest

UPDATES = 4
"""Updates of one call of a program."""

WINDOWS, WINDOW_SECONDS = 7, 1.0
"""Pairs of windows, and the shortest length of one."""


@dataclasses.dataclass(frozen=True)
class Contest:
    """One pairing.

    Attributes:
      name: on the command line and in the tables.
      peer: extra that the peer's world needs: "jaxmarl" or "jumanji".
      world: name and fields of our world.
      theirs: number of environments -> the peer's world.
      settings: hyperparameters that differ from the peer's defaults.
    """

    name: str
    peer: str
    world: tuple[str, dict[str, Any]]
    theirs: Callable[[int], Any]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def _their_spread(num_envs: int) -> Any:
    from marl_bench.experiments.peer_ppo import jaxmarl_world

    return jaxmarl_world("MPE_simple_spread_v3", num_envs)


def _their_foraging(num_envs: int) -> Any:
    from marl_bench.adapters.extras import import_extra
    from marl_bench.experiments.peer_ppo import jumanji_world

    jumanji = import_extra("jumanji", "jumanji")
    generator = import_extra("jumanji.environments.routing.lbf.generator", "jumanji").RandomGenerator(
        grid_size=8, fov=8, num_agents=2, num_food=2, max_agent_level=2, force_coop=True
    )
    return jumanji_world(lambda: jumanji.make("LevelBasedForaging-v0", generator=generator), num_envs)


CONTESTS = (
    Contest("ippo-spread", "jaxmarl", ("spread", {"rules": "jaxmarl"}), _their_spread),
    Contest(
        "ippo-foraging-8x8-2p-2f",
        "jumanji",
        ("Foraging-8x8-2p-2f-coop-v3", {"variant": "jumanji", "horizon": 100}),
        _their_foraging,
        {"num_envs": 64},
    ),
)
"""In the order in which they run."""


def main(against: str, only: str | None = None, out: Path | None = None) -> int:
    """Run the contests, print a table, and write JSON to `out`.

    Args:
      against: packages to compare with, separated by commas.
      only: names of contests, separated by commas; None for all against these packages.
    Returns:
      0.
    Raises:
      UsageError: for an unknown contest, or none left. RunError: when a package is not installed (extra).
    """
    packages = [word.strip() for word in against.split(",")]
    known = {contest.name: contest for contest in CONTESTS}
    wanted = [word.strip() for word in only.split(",")] if only else list(known)
    for name in wanted:
        if name not in known:
            raise UsageError(f"--only {name}: no such contest{nearest(name, known)} (known: {', '.join(known)})")
    chosen = [known[name] for name in wanted if known[name].peer in packages]
    if not chosen:
        raise UsageError(f"--against {against} --only {only}: no contest is left (known: {', '.join(known)})")
    command = f"marl-bench bench learners --against {against}" + (f" --only {only}" if only else "")
    with uncached():
        rows = [_compare(contest) for contest in chosen]
    record = {"command": command, **_machine(), "contests": rows}
    print(_as_markdown(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


def _compare(contest: Contest) -> dict[str, Any]:
    """A row of the record."""
    ours, theirs = _our_program(contest), _peer_program(contest)
    for program in (ours, theirs):
        rate(program.program, WINDOW_SECONDS)  # warm
    pairs = [(rate(ours.program, WINDOW_SECONDS), rate(theirs.program, WINDOW_SECONDS)) for _ in range(WINDOWS)]
    rates = np.array(pairs)
    return {
        "name": contest.name,
        "peer": contest.peer,
        "rates": rates[:, 0].tolist(),
        "peer_rates": rates[:, 1].tolist(),
        "ratios": (rates[:, 0] / rates[:, 1]).tolist(),
        **{f"{side}_{key}": value for side, made in (("our", ours), ("peer", theirs)) for key, value in made.facts()},
    }


@dataclasses.dataclass
class _Made:
    """A compiled trainer. `program`: see `bench_rollouts.Program`; `memory`: bytes of its arguments and temporaries."""

    program: Any
    memory: int

    def facts(self) -> list[tuple[str, Any]]:
        return [("compile_seconds", self.program.compile_seconds), ("memory_bytes", self.memory)]


def _made(start: Callable[..., Any], update: Callable[..., Any], steps: int) -> _Made:
    """Compile `UPDATES` updates of a trainer (its state is donated), and start it."""
    import jax

    from marl_bench.experiments.bench_rollouts import Program, compiled

    key = jax.random.key(0)
    begin, start_seconds = compiled(start, key)
    carry = begin(key)

    def run(carry: Any, nothing: None) -> Any:
        del nothing
        return jax.lax.scan(lambda carry, _: (update(carry), None), carry, None, length=UPDATES)[0]

    call, seconds = compiled(run, carry, None, donate_argnums=0)
    analysis = call.memory_analysis()  # pyright: ignore[reportFunctionMemberAccess]
    memory = int(analysis.argument_size_in_bytes + analysis.temp_size_in_bytes) if analysis else 0
    return _Made(Program(call, carry, None, steps * UPDATES, seconds, start_seconds, 0.0), memory)


def _our_program(contest: Contest) -> _Made:
    from marl_bench.registry import make, make_learner

    name, fields = contest.world
    env, learner = make(name, **fields), make_learner("ippo", **contest.settings)
    learner.validate(env)
    start = functools.partial(learner.init, source=env)
    return _made(start, lambda state: learner.update(state, env)[0], learner.update_steps)


def _peer_program(contest: Contest) -> _Made:
    from marl_bench.experiments.peer_ppo import Settings, peer_ippo

    settings = Settings(**contest.settings)
    start, update = peer_ippo(contest.theirs(settings.num_envs), settings)
    return _made(start, update, settings.num_envs * settings.num_steps)


def _machine() -> dict[str, Any]:
    import os
    import platform
    from datetime import date

    import jax

    return {
        "date": date.today().isoformat(),
        "platform": jax.default_backend(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "updates_a_call": UPDATES,
    }


def _as_markdown(record: dict[str, Any]) -> str:
    lines = [
        f"`{record['command']}` ({record['date']}, {record['processors']} cores, {record['platform']}, jax {record['jax']}).",
        "Environment steps of training per second of CPU time (of wall-clock time on an accelerator); ratios pair by pair.",
        "",
        "| contest | ours | peer | ratio, median (min-max) | compile s | peer's | memory MiB | peer's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["contests"]:
        ratios = row["ratios"]
        lines.append(
            f"| {row['name']} | {np.median(row['rates']):,.0f} | {row['peer']} {np.median(row['peer_rates']):,.0f} "
            f"| {np.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f}) | {row['our_compile_seconds']:.1f} "
            f"| {row['peer_compile_seconds']:.1f} | {row['our_memory_bytes'] / 2**20:.1f} | {row['peer_memory_bytes'] / 2**20:.1f} |"
        )
    return "\n".join(lines)
