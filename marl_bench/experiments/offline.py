"""Offline runs: from data sets on the disk to the world and the sources of a sweep's cells."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.algorithms.networked import action_size, is_discrete
from marl_bench.datasets.data import Data, as_data
from marl_bench.datasets.source import OfflineSource, Statistics, statistics_of
from marl_bench.datasets.stored import StoredDataset, open_dataset
from marl_bench.environment import Environment
from marl_bench.errors import UsageError


def world_of_datasets(datasets: Sequence[str], env: Any) -> dict[str, Any]:
    """`env` and `env.FIELD` entries of the world that the data sets are of; empty if none of them says.

    Args:
      datasets: paths.
      env: the name that the user gave, or None.
    Raises:
      UsageError: when they are of different worlds, when `env` is another one, or when nobody says which.
    """
    worlds = {path: world for path in datasets if (world := manifest_world(path)) is not None}
    if not worlds:
        if env is None:
            raise UsageError(f"dataset={datasets[0]}: does not say which world it is of; name it with env=NAME")
        return {}
    named, first = next(iter(worlds.items()))
    for path, world in worlds.items():
        if world != first:
            raise UsageError(
                f"dataset: {path} and {named} are of different worlds ({_difference(world, first)}); run them apart"
            )
    if env not in (None, first["env"]):
        raise UsageError(f"env={env}: {named} is of the world {first['env']}; leave env out")
    return first


def manifest_world(path: str) -> dict[str, Any] | None:
    """`env` and every `env.FIELD` of the world that a data set is of; None if it does not say."""
    manifest = opened(path).manifest
    if manifest is None or manifest.world is None:
        return None
    return {"env": manifest.world, **{f"env.{name}": [value] for name, value in manifest.fields.items()}}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first entries in which two worlds differ, e.g. `env.agents=3 and 4`."""
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(f"{key}={one.get(key)} and {other.get(key)}" for key in keys[:3])


@functools.lru_cache(maxsize=64)
def opened(path: str) -> StoredDataset:
    """The data set at `path`, checked once in a process."""
    return open_dataset(Path(path))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the K data sets of a run lie, and how they are cut into shards: what the cells of a pack share.

    Attributes:
      paths: of the data sets, each of which holds one or more.
      num_actions: A, or 0 for continuous actions.
      num_shards: S.
    """

    paths: tuple[str, ...]
    num_actions: int
    num_shards: int

    @property
    def members(self) -> list[tuple[StoredDataset, int]]:
        """The K data sets: file and part."""
        return [(opened(path), part) for path in self.paths for part in range(opened(path).num_parts)]

    def block(self, stored: StoredDataset, part: int, shard: int) -> tuple[int, int]:
        """First episode and number of episodes of a shard of one data set."""
        count = stored.num_episodes(part)
        first, stop = (count * place // self.num_shards for place in (shard, shard + 1))
        return first, stop - first

    def nbytes(self) -> int:
        """Bytes of a shard on the device."""
        return sum(opened(path).nbytes for path in self.paths) // self.num_shards

    def load(self, shard: int) -> Data:
        """`Data` of a shard, the same shapes for all."""
        parts = [stored.read(part, *self.block(stored, part, shard)) for stored, part in self.members]
        return as_data(parts, self.num_actions, _largest(self))


@functools.lru_cache(maxsize=64)
def _largest(layout: Layout) -> tuple[int, int, int]:
    """Rows, episodes and steps of the largest shard of any data set."""
    sizes = [(0, 0, 0)]
    for stored, part in layout.members:
        lengths = stored.lengths(part)
        for shard in range(layout.num_shards):
            first, count = layout.block(stored, part, shard)
            steps = int(lengths[first : first + count].sum())
            sizes.append((steps + count, count, steps))
    rows, episodes, steps = (max(column) for column in zip(*sizes, strict=True))
    return rows, episodes, steps


@functools.lru_cache(maxsize=256)
def _statistics(path: str, part: int) -> Statistics:
    return statistics_of(opened(path).read(part))


def sources(
    prepared: Mapping[int, Environment], datasets: Sequence[str], shards: int
) -> Iterator[tuple[dict[str, Any], dict[int, OfflineSource]]]:
    """For each data set its columns in results, and the source of each seed: data set number `seed % K` of its K.

    Args:
      prepared: seed -> world. datasets: paths. shards: S.
    Raises:
      UsageError: when a data set has no episodes, or does not fit the world, naming what differs.
    """
    environment = next(iter(prepared.values()))
    layout = Layout(tuple(datasets), environment.num_actions if is_discrete(environment) else 0, shards)
    for path in datasets:
        check_fit(path, environment, shards)
    longest = max(int(stored.lengths(part).max()) for stored, part in layout.members)
    first = 0
    for path in datasets:
        count = opened(path).num_parts
        found = {
            seed: OfflineSource(
                environment=world,
                part=np.int32(first + seed % count),
                statistics=_statistics(path, seed % count),
                longest=longest,
                layout=layout,
            )
            for seed, world in prepared.items()
        }
        yield {"dataset": path}, found
        first += count


def check_fit(path: str, environment: Environment, shards: int) -> None:
    """Refuse a data set whose arrays are not what the world gives."""
    stored = opened(path)
    for part in range(stored.num_parts):
        if stored.num_episodes(part) < max(shards, 1):
            least = f"at least dataset_shards={shards} are needed" if shards > 1 else "collect it again"
            raise UsageError(f"{path}: part {part} holds {stored.num_episodes(part)} episodes; {least}")
    sample, discrete = stored.read(0, 0, 1), is_discrete(environment)
    kind = lambda numbered, size: "numbered" if numbered else f"vectors of {size}"  # noqa: E731
    wanted = {
        "num_agents": (environment.num_agents, sample.num_agents),
        "observation_shape": (tuple(environment.observation_shape), sample.observations.shape[2:]),
        "actions": (kind(discrete, action_size(environment)), kind(sample.actions.ndim == 2, sample.actions.shape[-1])),
    }
    if sample.legals is not None and discrete:
        wanted["num_actions"] = (environment.num_actions, sample.legals.shape[2])
    for name, (world, found) in wanted.items():
        if world != found:
            raise UsageError(
                f"{path}: {name} is {found} in the data and {world} in {type(environment.unwrapped).__name__}; the data set "
                "is of another world, or of other settings of it"
            )
