"""The second contest of `marl-bench bench offline`: a pack of `cfcql` cells against an eager PyTorch loop of the same algorithm.

The measure is updates a second, summed over cells: a pack trains 20 cells (5 seeds, 4 conservative weights) side by side, the loop
(`peer_cfcql`) one after the other, so its rate for 20 cells is that of one. Both on the same recorded episodes, in one process, in
windows that alternate. The loop runs with the threads that PyTorch takes by default and with one, and the faster of the two counts: with
small batches, or on a busy machine, one thread is faster. Before, the losses of both from the same parameters on the same episodes
are compared.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.algorithms.offline.cfcql import CFCQL
from marl_bench.datasets.behaviours import noisy, scaled_slots
from marl_bench.datasets.collect import Collector
from marl_bench.datasets.data import Data, as_data
from marl_bench.datasets.sampling import stretch
from marl_bench.datasets.source import OfflineSource, statistics_of
from marl_bench.experiments.cells import CellSpec
from marl_bench.experiments.peer_cfcql import PeerCFCQL
from marl_bench.registry import make
from marl_bench.runtime.packs import make_packs
from marl_bench.runtime.runner import PackRunner

SEEDS, WEIGHTS = 5, (0.0, 3.0, 30.0, 300.0)
EPISODES = 300
SETTINGS: dict[str, dict[str, Any]] = {"default": {}, "study": {"batch_size": 8, "recurrent_size": 0}}
"""Fields of the learner; `study`: batches as in `marl-bench reproduce cfcql` at scale reduced, and no memory."""
PLAYERS = {"default": (8,), "study": (2, 8)}
CHUNK = {"default": 1, "study": 10}
"""Updates of the pack in one call of its program, as between two logged points of a run."""
ROUNDS, WINDOW_SECONDS = 3, 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Held:
    """Data in memory, as the `Layout` of a source."""

    data: Data
    num_shards: int = 1

    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.data))

    def load(self, shard: int) -> Data:
        """All of it."""
        del shard
        return self.data


def recorded(players: int, episodes: int = EPISODES) -> OfflineSource:
    """Episodes of `equal_line`: scripted agents that walk to a share of their slots, with random actions in between."""
    world = make("equal_line", players=players, timeout_is_terminal=True)
    act, memory = scaled_slots(players, 0.2)
    played = Collector(world, noisy(act, world, 0.2), memory, together=episodes).play((), 0, 0, episodes)
    data = as_data([played], world.num_actions)
    part: Any = np.int32(0)
    return OfflineSource(world, part, statistics_of(played), data, int(played.lengths.max()), _Held(data))


def difference(learner: CFCQL, source: OfflineSource, peer: PeerCFCQL) -> float:
    """How far the losses of both sides lie apart, as a share of ours: same episodes, networks and other target networks."""
    source = dataclasses.replace(source, data=jax.tree.map(jnp.asarray, source.data), layout=None)
    state, other = (jax.jit(learner.init)(jax.random.key(seed), source) for seed in range(2))
    chosen, start = np.arange(learner.batch_size), jnp.zeros(learner.batch_size, jnp.int32)

    @jax.jit
    def loss(networks: Any, target: Any) -> jax.Array:
        batch = stretch(source.data, source.part, chosen, start, source.longest)  # type: ignore[arg-type]
        batch = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch)
        return learner.loss(networks, target, source.environment, batch, jax.random.key(0))[0]

    ours = float(loss({name: state.params[name] for name in state.opt_state}, other.target))
    peer.load(state.params, other.target)
    return abs(peer.loss_of(chosen) - ours) / abs(ours)


def packed(learner: CFCQL, source: OfflineSource) -> PackRunner:
    """The program that trains 5 seeds with 4 weights in one pack."""
    learners = [dataclasses.replace(learner, conservative_weight=weight) for weight in WEIGHTS]
    cells = [(one, seed) for one in learners for seed in range(SEEDS)]
    bare = dataclasses.replace(source, data=None)
    (pack,) = make_packs([CellSpec(place, bare, one, seed, {}) for place, (one, seed) in enumerate(cells)])
    return PackRunner(pack)


def training_contest(
    players: int, settings: str, rounds: int = ROUNDS, seconds: float = WINDOW_SECONDS
) -> dict[str, Any]:
    """Both sides in turn.

    Args:
      players: of `equal_line`. settings: name in `SETTINGS`. rounds: windows of each. seconds: shortest length of one.
    Returns:
      `rates`, `peer_rates`: [rounds] cell-updates a second; with `cpu_` before them, a second of CPU time over all threads.
      `peer_threads`: the numbers of threads with which each was fastest. `difference`: see there. `compile_seconds`: of our programs.
    """
    learner, source = CFCQL(**SETTINGS[settings]), recorded(players)
    peer = PeerCFCQL(learner, source)
    found: dict[str, Any] = {"settings": settings, "players": players, "difference": difference(learner, source, peer)}
    runner = packed(learner, source)
    state = runner.train(runner.start(), 1)[0]
    peer.update()

    def ours() -> int:
        nonlocal state
        state = runner.train(state, CHUNK[settings])[0]
        return CHUNK[settings] * len(runner.pack)

    def theirs() -> int:
        peer.update()
        return 1

    threads = sorted({1, peer.threads})
    windows: dict[int, list[tuple[float, float]]] = {count: [] for count in (0, *threads)}
    for _ in range(rounds):
        windows[0].append(speed(ours, seconds))
        for count in threads:
            with peer.using(count):
                windows[count].append(speed(theirs, seconds))
    rates = {count: np.array(pairs).T for count, pairs in windows.items()}
    for clock, name in enumerate(("", "cpu_")):
        best = max(threads, key=lambda count: float(np.median(rates[count][clock])))
        found |= {f"{name}rates": rates[0][clock].tolist(), f"{name}peer_rates": rates[best][clock].tolist()}
        found[f"{name}peer_threads"] = best
    return {**found, "cells": len(runner.pack), "compile_seconds": runner.timing.compile_seconds}


def speed(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    """What `step` says it did, a second and a second of CPU time, over at least so many seconds."""
    done, began, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        done += step()
        elapsed = time.perf_counter() - began
        if elapsed >= seconds:
            return done / elapsed, done / (time.process_time() - cpu)


def contests() -> list[dict[str, Any]]:
    """All of them, in the order of the table."""
    return [training_contest(players, settings) for settings, sizes in PLAYERS.items() for players in sizes]


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Table of the contests: medians, and ratios window by window."""
    lines = [
        "| settings | agents | cell-updates/s, pack of 20 | eager PyTorch | ratio (min-max) | by CPU time (min-max) | losses differ by |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratios = {key: np.array(row[f"{key}rates"]) / row[f"{key}peer_rates"] for key in ("", "cpu_")}
        wall, cpu = (f"{np.median(ratio):.1f}x ({ratio.min():.1f}-{ratio.max():.1f})" for ratio in ratios.values())
        lines.append(
            f"| {row['settings']} | {row['players']} | {np.median(row['rates']):,.1f} | {np.median(row['peer_rates']):,.1f} "
            f"| {wall} | {cpu} | {row['difference']:.0e} |"
        )
    return "\n".join(lines)
