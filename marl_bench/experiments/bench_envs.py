"""`marl-bench bench envs`: speed of our worlds against the same games of other packages, in one process.

For each contest and batch, our roll-out and the peer's are compiled ahead of time and then run in turn, window by window;
each pair of windows gives one ratio. On a CPU the measure is CPU time (over all threads), so that a busy machine does not
decide; on an accelerator it is wall-clock time. Compilation is never part of a window; it is shown apart, in CPU seconds,
with the compile cache off. Where a peer restarts episodes in several ways, the one that is fastest at that batch is used.

To add a contest, append to `CONTESTS` in `marl_bench.experiments.bench_contests`:

    Contest(
        name="foraging-8x8-2p-2f",
        peer="jumanji",
        ours=lambda: make("foraging", size=8, num_agents=2, num_food=2, variant="jumanji"),
        theirs=lambda batch: jumanji_rollouts(make_their_foraging, batch),
        crowd=lambda agents: make("foraging", size=20, num_agents=agents, num_food=4),
    )

`ours` makes an environment with the rules of the peer's; `theirs` gives its `Rollout`s (see `bench_rollouts`) by the way
they restart, or is a `Figure` for a peer that cannot be installed; `crowd`, if there is one, makes the world for 2 and for
64 agents, to see whether compile time grows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.errors import RunError, UsageError
from marl_bench.naming import nearest

PEERS = ("jumanji", "jaxmarl", "socialjax")

BATCHES = (64, 1024, 8192)
ACCELERATOR_BATCHES = (2**16, 2**18, 2**20)

WINDOWS = 7
"""Pairs of windows of a comparison."""
WINDOW_SECONDS = 0.4
"""Shortest length of one window."""
CROWDS = (2, 64)
"""Numbers of agents between which compile time is compared."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Speed of a peer that no package registry has, measured once and stated.

    Attributes:
      low: environment steps a CPU-second, the slowest measured.
      high: the fastest measured.
      source: version, machine and batches of that measurement.
    """

    low: float
    high: float
    source: str


@dataclasses.dataclass(frozen=True)
class Contest:
    """One of our worlds against the same game elsewhere; see the docstring of this module.

    Attributes:
      name: what `--only` selects.
      peer: one of `PEERS`.
      ours: makes our environment, with the peer's rules and sizes.
      theirs: batch -> its roll-outs by how they restart; or a `Figure`.
      crowd: number of agents -> our environment; None if the game has a fixed number.
      strategy: how our episodes restart (`VectorEnvironment`).
    """

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[int], dict[str, Any]] | Figure
    crowd: Callable[[int], Any] | None = None
    strategy: str = "auto"


def main(against: str, only: str | None = None, batches: Sequence[int] | None = None, out: Path | None = None) -> int:
    """Run the contests, print a Markdown table, and write JSON to `out` and the table beside it (suffix `.md`).

    Args:
      against: names of peers, separated by commas.
      only: names of contests, separated by commas; None for all.
      batches: numbers of environments; None for `BATCHES`, and `ACCELERATOR_BATCHES` where there is an accelerator.
      out: file for the figures.
    Raises:
      UsageError: for an unknown peer or contest, a batch below 1, or a peer that is not installed.
      RunError: where `out` cannot be written.
    """
    from marl_bench.experiments.bench_contests import CONTESTS

    contests = select(CONTESTS, against, only)
    if batches is not None and (not batches or min(batches) < 1):
        raise UsageError(f"--batch {','.join(map(str, batches))}: must be positive integers separated by commas")
    for contest in contests:
        require(contest)
    record = _measured(contests, against, only, batches)
    table = as_markdown(record)
    print("\n" + table)
    if out is not None:
        _write(Path(out), json.dumps(record, indent=2) + "\n")
        _write(Path(out).with_suffix(".md"), table + "\n")
    return 0


def _measured(
    contests: Sequence[Contest], against: str, only: str | None, batches: Sequence[int] | None
) -> dict[str, Any]:
    import jax

    accelerator = jax.default_backend() != "cpu"
    sizes = tuple(batches) if batches else BATCHES + (ACCELERATOR_BATCHES if accelerator else ())
    bandwidth = copy_bandwidth() if accelerator else None
    record = _header(against, only, sizes, bandwidth)
    with uncached():
        for contest in contests:
            for batch in sizes:
                row = compare(contest, batch, bandwidth=bandwidth)
                print(_line(row), flush=True)
                record["rows"].append(row)
            if contest.crowd is not None:
                record["crowds"].append({"name": contest.name, "compile_seconds": crowd_seconds(contest.crowd)})
    return record


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Without the persistent cache: compilation is measured, not the reading of a cache."""
    import jax

    cached = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def select(contests: Iterable[Contest], against: str, only: str | None) -> list[Contest]:
    """The contests with these peers and names.

    Raises:
      UsageError: for an unknown peer or name, or if none is left.
    """
    contests = list(contests)
    peers = [word.strip() for word in against.split(",") if word.strip()]
    for peer in peers:
        if peer not in PEERS:
            raise UsageError(f"--against {peer}: unknown{nearest(peer, PEERS)} (known: {', '.join(PEERS)})")
    names = [contest.name for contest in contests]
    wanted = names if only is None else [word.strip() for word in only.split(",")]
    for name in wanted:
        if name not in names:
            raise UsageError(f"--only {name}: no such contest{nearest(name, names)} (known: {', '.join(names)})")
    chosen = [contest for contest in contests if contest.peer in peers and contest.name in wanted]
    if not chosen:
        raise UsageError(f"--only {only}: none of these is against {against}")
    return chosen


def require(contest: Contest) -> None:
    """Check that the peer can be imported.

    Raises:
      UsageError: with the command that installs it.
    """
    import importlib.util

    if isinstance(contest.theirs, Figure) or importlib.util.find_spec(contest.peer) is not None:
        return
    raise UsageError(
        f"contest {contest.name} needs {contest.peer}, which is not installed: pip install 'marl-bench[{contest.peer}]'"
    )


def compare(
    contest: Contest,
    batch: int,
    *,
    windows: int = WINDOWS,
    seconds: float = WINDOW_SECONDS,
    bandwidth: float | None = None,
) -> dict[str, Any]:
    """Time our side and the peer's in interleaved windows.

    Args:
      contest: who against whom.
      batch: environments a side.
      windows: number of pairs.
      seconds: shortest length of a window.
      bandwidth: bytes a second of a copy; adds the share of it that the roll-out needs at least.
    Returns:
      A row of the record: rates [windows] in environment steps a second, ratios [windows], compile times.
    """
    import jax

    from marl_bench.experiments.bench_rollouts import compile_rollout, our_rollout

    key = jax.random.key(0)
    length = roll_out_length(batch)
    program = compile_rollout(our_rollout(contest.ours(), batch, length, contest.strategy), length, key)
    row: dict[str, Any] = {"name": contest.name, "peer": contest.peer, "batch": batch, "length": length}
    if isinstance(contest.theirs, Figure):
        ours = np.array([rate(program, seconds) for _ in range(windows + 1)][1:])
        theirs = np.array([contest.theirs.high])
        row |= {"stated": dataclasses.asdict(contest.theirs)}
    else:
        options = {name: compile_rollout(r, length, key) for name, r in contest.theirs(batch).items()}
        trials = {name: rate(option, seconds) for name, option in options.items()}
        chosen = max(trials, key=lambda name: trials[name])
        rival = options.pop(chosen)
        options.clear()
        rate(program, seconds)  # warm, as the rival is
        pairs = np.array([(rate(program, seconds), rate(rival, seconds)) for _ in range(windows)])
        ours, theirs = pairs.T
        row |= {
            "restart": chosen,
            "restart_trials": trials,
            "peer_compile_seconds": rival.compile_seconds,
            "peer_start_seconds": rival.start_seconds,
        }
    row |= {
        "rates": ours.tolist(),
        "peer_rates": theirs.tolist(),
        "ratios": (ours / theirs).tolist(),
        "compile_seconds": program.compile_seconds,
        "start_seconds": program.start_seconds,
        "bytes_per_step": program.bytes_per_step,
    }
    if bandwidth is not None:
        row["bandwidth_share"] = float(np.median(ours)) * program.bytes_per_step / bandwidth
    return row


def roll_out_length(batch: int) -> int:
    """Steps of the batch in one call: 128, fewer where the actions drawn beforehand would fill the memory."""
    return int(np.clip(2**22 // batch, 16, 128))


def _clock() -> float:
    import jax

    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def rate(program: Any, seconds: float) -> float:
    """Environment steps a second over one window of at least `seconds`."""
    calls, start = 0, _clock()
    while True:
        program.run()
        calls += 1
        elapsed = _clock() - start
        if elapsed >= seconds:
            return calls * program.steps / elapsed


def crowd_seconds(crowd: Callable[[int], Any]) -> dict[str, float]:
    """CPU seconds that compiling a roll-out of 64 environments takes, by number of agents (`CROWDS`); least of three."""
    import jax

    from marl_bench.experiments.bench_rollouts import compile_rollout, our_rollout

    seconds = {}
    for agents in CROWDS:
        times = []
        for _ in range(3):
            program = compile_rollout(our_rollout(crowd(agents), 64, 128), 128, jax.random.key(0))
            times.append(program.compile_seconds)
        seconds[str(agents)] = min(times)
    return seconds


def copy_bandwidth(numbers: int = 2**26) -> float:
    """Bytes a second, read and written, of a kernel that copies `numbers` float32: the memory's practical limit."""
    import jax
    import jax.numpy as jnp

    source = jnp.zeros(numbers, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    jax.block_until_ready(copy(source))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(copy(source))
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / float(np.median(times))


def _header(against: str, only: str | None, sizes: Sequence[int], bandwidth: float | None) -> dict[str, Any]:
    import jax

    from marl_bench.runtime.checkpoint import versions

    command = f"marl-bench bench envs --against {against} --batch {','.join(map(str, sizes))}"
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": command + (f" --only {only}" if only else ""),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {**versions(), **_peer_versions()},
        "clock": "CPU time" if jax.default_backend() == "cpu" else "wall-clock time",
        "copy_bytes_per_second": bandwidth,
        "rows": [],
        "crowds": [],
    }


def _peer_versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for peer in PEERS:
        try:
            found[peer] = metadata.version(peer)
        except metadata.PackageNotFoundError:
            continue
    return found


def _line(row: dict[str, Any]) -> str:
    ratios = row["ratios"]
    return (
        f"{row['name']} x {row['batch']}: {np.median(row['rates']):,.0f} steps/s, {row['peer']} "
        f"{np.median(row['peer_rates']):,.0f}: {np.median(ratios):.1f}x ({min(ratios):.1f}-{max(ratios):.1f})"
    )


def as_markdown(record: dict[str, Any]) -> str:
    """The record as a page: a table of ratios, and what its columns mean."""
    versions = record["versions"]
    software = ", ".join(f"{name} {versions[name]}" for name in ("jax", *PEERS) if name in versions)
    lines = [
        f"`{record['command']}` ({record['date']}, {record['cores']} cores, {record['device']}, {software}).",
        f"Environment steps per second of {record['clock']}: medians of interleaved windows; ratios pair by pair.",
        "",
        "| contest | batch | ours | peer | restart | ratio, median (min-max) | compile s | peer's | bytes a step | bandwidth |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        ratios = row["ratios"]
        share = row.get("bandwidth_share")
        theirs = row.get("peer_compile_seconds")
        lines.append(
            f"| {row['name']} | {row['batch']:,} | {np.median(row['rates']):,.0f} | {row['peer']} "
            f"{np.median(row['peer_rates']):,.0f} | {row.get('restart', 'stated')} "
            f"| {np.median(ratios):.1f}x ({min(ratios):.1f}-{max(ratios):.1f}) | {row['compile_seconds']:.1f} "
            f"| {'-' if theirs is None else f'{theirs:.1f}'} | {row['bytes_per_step']:,.0f} "
            f"| {'-' if share is None else f'{share:.0%}'} |"
        )
    if record["crowds"]:
        few, many = map(str, CROWDS)
        lines += ["", f"| contest | compile s, {few} agents | {many} agents | ratio |", "|---|---:|---:|---:|"]
        for row in record["crowds"]:
            seconds = row["compile_seconds"]
            lines.append(
                f"| {row['name']} | {seconds[few]:.1f} | {seconds[many]:.1f} | {seconds[many] / seconds[few]:.2f} |"
            )
    stated = {row["peer"]: row["stated"]["source"] for row in record["rows"] if "stated" in row}
    lines += [f"\nStated, not measured here: {peer}: {source}" for peer, source in stated.items()]
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"--out {path}: cannot be written ({error.strerror or error})") from error
