"""`marl-bench dataset`: what data sets hold, whether they are whole, from and to other layouts, their picture."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl_bench.algorithms.networked import is_discrete
from marl_bench.datasets import cfcql_h5, omar
from marl_bench.datasets.formats import Parts, check_sums, new_folder
from marl_bench.datasets.manifest import ROOT, Manifest
from marl_bench.datasets.schema import Trajectories
from marl_bench.datasets.stored import StoredDataset, blocks, open_dataset
from marl_bench.datasets.vault import METADATA
from marl_bench.datasets.writer import write_dataset
from marl_bench.environment import Environment
from marl_bench.errors import UsageError
from marl_bench.experiments import overrides
from marl_bench.experiments.cells import build_environment
from marl_bench.experiments.offline import check_fit
from marl_bench.runtime.packs import human_bytes

FORMATS = ("vault", "omar", "h5")
"""Layouts of others: OG-MARL's vaults, OMAR's npy files, CFCQL's h5 files."""

_POINTS = 50


def plain_fields(environment: Environment) -> dict[str, Any]:
    """The fields of a world that a text file can hold, name -> value: with its name, they make the same world again."""
    world: Any = environment.unwrapped
    values = {field.name: getattr(world, field.name) for field in dataclasses.fields(world) if field.init}
    return {name: value for name, value in values.items() if overrides.is_plain(value)}


def imported(
    layout: str,
    source: Path,
    out: Path,
    world: tuple[str, Sequence[str]] | None = None,
    manifest: Manifest | None = None,
) -> StoredDataset:
    """Bring data of another layout into ours.

    Args:
      layout: one of `FORMATS`. source: file or folder. out: new folder.
      world: name of the environment that the data are of, and `FIELD=VALUE` tokens; None if unknown.
      manifest: what is known besides.
    Raises:
      UsageError: unknown layout, `out` exists, or the data are not of that world, naming what differs.
      RunError: damaged or foreign files, disk full.
    """
    manifest = manifest or Manifest()
    environment = None
    if world is not None:
        environment = build_environment(world[0], list(world[1]))
        manifest = dataclasses.replace(manifest, world=world[0], fields=plain_fields(environment))
    stored = write_dataset(out, _parts(layout, source), manifest)
    if environment is not None:
        try:
            check_fit(str(out), environment, 1)
            _check_range(stored, environment)
        except UsageError:
            shutil.rmtree(out, ignore_errors=True)
            raise
    return stored


def _parts(layout: str, source: Path) -> Sequence[Trajectories]:
    if layout == "vault":
        check_sums(source)
        foreign = open_dataset(source)
        return Parts(source, [functools.partial(foreign.read, part) for part in range(foreign.num_parts)])
    _check_layout(layout)
    return (omar if layout == "omar" else cfcql_h5).read(source)


def exported(layout: str, dataset: StoredDataset, out: Path) -> None:
    """Write a data set in another layout; see `imported` for the arguments and errors."""
    _check_layout(layout)
    if layout != "vault":
        (omar if layout == "omar" else cfcql_h5).export(dataset, out)
        return
    dataset.verify()
    with new_folder(out) as folder:
        for name in (METADATA, ROOT):
            shutil.copyfile(dataset.path / name, folder / name)
        (folder / "d").mkdir()
        for file in (dataset.path / "d").iterdir():  # copytree would hide that the disk is full
            shutil.copyfile(file, folder / "d" / file.name)


def _check_layout(layout: str) -> None:
    if layout not in FORMATS:
        raise UsageError(f"unknown layout {layout!r} (known: {', '.join(FORMATS)})")


def _check_range(dataset: StoredDataset, environment: Environment) -> None:
    """Refuse actions that the world does not have."""
    discrete, spec = is_discrete(environment), environment.action_spec
    low, high = (0, environment.num_actions - 1) if discrete else (np.min(spec.minimum), np.max(spec.maximum))
    for part, block in _read(dataset):
        least, most = block.actions.min(), block.actions.max()
        if least < low or most > high:
            raise UsageError(
                f"{dataset.path}: part {part}: actions {least} to {most}, the world's are {low} to {high}; the data set is of "
                "another world, or scale its actions first"
            )


def description(dataset: StoredDataset) -> str:
    """What a data set is and holds, for people."""
    manifest = dataset.manifest or Manifest(package="another program")
    fields = ", ".join(f"{name}={value}" for name, value in manifest.fields.items())
    sample = dataset.read(0, 0, 1)
    arrays = [
        f"  {field.name:<18} {array.dtype.name:<8} {'x'.join(map(str, array.shape[1:]))}"
        for field in dataclasses.fields(sample)
        if (array := getattr(sample, field.name)) is not None
    ]
    rows = [
        f"  {number:<5} {part.episodes:>9} {part.steps:>10} {part.return_mean:>10.4g} {part.return_std:>10.4g} "
        f"{part.return_min:>10.4g} {part.return_max:>10.4g}{_normalised(manifest, part.return_mean)}"
        for number, part in enumerate(dataset.parts)
    ]
    normalised = "  normalised" if _normalised(manifest, 0.0) else ""
    return "\n".join(
        [
            f"{dataset.path}: {dataset.num_parts} data sets, {human_bytes(dataset.nbytes)}",
            f"world: {manifest.world or 'unknown'}{f' ({fields})' if fields else ''}",
            f"behaviour: {manifest.behaviour}; tier: {manifest.tier or 'none'}; seed: {manifest.seed}",
            f"licence: {manifest.licence}; written by {manifest.package}",
            f"reference returns: random {manifest.random_return}, expert {manifest.expert_return}",
            "arrays of a step, and of an episode's last moment:",
            *arrays,
            f"  part   episodes      steps       mean        std        min        max{normalised}",
            *rows,
        ]
    )


def _normalised(manifest: Manifest, value: float) -> str:
    """Score of which random play has 0 and the expert 100; empty where these are unknown."""
    random, expert = manifest.random_return, manifest.expert_return
    if random is None or expert is None or math.isclose(random, expert):
        return ""
    return f" {100 * (value - random) / (expert - random):>11.1f}"


def unique_share(dataset: StoredDataset, part: int, decimals: int = 2) -> np.ndarray:
    """[50] share of distinct pairs of state and joint action among the first 1/50, 2/50, ... of a part's steps.

    The last entry is the joint SACo of OG-MARL's cards. States (what all agents see, where there are none) and actions are rounded
    to `decimals` places, and compared by a 64-bit hash.
    """
    random, found = np.random.default_rng(0), []
    weights = np.zeros(0, np.uint64)
    for _, block in _read(dataset, part):
        seen = block.observations if block.state is None else block.state
        row = np.concatenate(
            [array.reshape(block.num_steps, -1).astype(np.float64) for array in (seen, block.actions)], 1
        )
        whole = np.rint(row * 10**decimals).astype(np.int64).view(np.uint64)
        if not weights.size:
            weights = random.integers(0, 2**64, whole.shape[1], np.uint64, endpoint=False) | np.uint64(1)
        found.append((whole * weights).sum(axis=1, dtype=np.uint64))
    keys = np.concatenate(found)
    new = np.zeros(keys.size)
    new[np.unique(keys, return_index=True)[1]] = 1
    ends = np.maximum(1, np.arange(1, _POINTS + 1) * keys.size // _POINTS)
    return np.cumsum(new)[ends - 1] / ends


def action_shares(dataset: StoredDataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of actions, or middles of 21 bins of the entries of vectors, and the share of each among all actions."""
    sample = dataset.read(0, 0, 1)
    if sample.actions.ndim == 2:
        counts = np.zeros(1)
        for _, block in _read(dataset):
            more = np.bincount(block.actions.ravel()).astype(float)
            size = max(counts.size, more.size)
            counts = np.pad(counts, (0, size - counts.size)) + np.pad(more, (0, size - more.size))
        return np.arange(counts.size), counts / counts.sum()
    limits = [(block.actions.min(), block.actions.max()) for _, block in _read(dataset)]
    low, high = min(entry[0] for entry in limits), max(entry[1] for entry in limits)
    edges = np.linspace(low, high if high > low else low + 1.0, 22)
    counts = np.sum([np.histogram(block.actions, edges)[0] for _, block in _read(dataset)], axis=0)
    return (edges[:-1] + edges[1:]) / 2, counts / counts.sum()


def plotted(dataset: StoredDataset, out: Path) -> str:
    """Draw a data set into `out` (.png, and .svg beside it). Returns one line with its SACo."""
    from marl_bench.report.canvas import save_figure
    from marl_bench.report.dataset import dataset_figure

    unique = [unique_share(dataset, part) for part in range(dataset.num_parts)]
    returns = [dataset.returns(part).mean(axis=1) for part in range(dataset.num_parts)]
    manifest = dataset.manifest or Manifest()
    title = (
        f"{manifest.world or 'unknown world'}, {manifest.tier or manifest.behaviour}: {sum(map(len, returns))} episodes"
    )
    save_figure(dataset_figure(title, returns, action_shares(dataset), unique), out.parent, out.stem)
    shares = ", ".join(f"{share[-1]:.3f}" for share in unique)
    return f"{out}: distinct pairs of state and joint action among the steps (SACo): {shares}"


def _read(dataset: StoredDataset, part: int | None = None) -> Iterator[tuple[int, Trajectories]]:
    """All data in stretches that fit into memory, with the number of their part."""
    for number in range(dataset.num_parts) if part is None else (part,):
        lengths = dataset.lengths(number)
        for first, stop in blocks(lengths, dataset.nbytes // max(1, sum(entry.steps for entry in dataset.parts))):
            yield number, dataset.read(number, first, stop - first)
