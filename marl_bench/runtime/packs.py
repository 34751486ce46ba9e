"""Packs: cells of one tree structure, stacked, so that one program trains them all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.errors import RunError
from marl_bench.learner import Cell

_USABLE_SHARE = 0.8
"""Share of the free memory that a pack may plan for."""

_BUFFERING = 2.0
"""Live copies of the training state while a program runs (donated input, output and temporaries)."""


@dataclasses.dataclass(frozen=True)
class Pack:
    """Cells that one compiled program trains.

    Attributes:
      indices: positions of the cells in the sweep.
      cells: a `Cell` whose leaves are NumPy arrays with a leading axis of len(indices); its key is the seed [n] uint32.
      bytes_per_cell: planned device memory of one cell.
    """

    indices: tuple[int, ...]
    cells: Cell
    bytes_per_cell: int

    def __len__(self) -> int:
        return len(self.indices)


def stack_leaves(leaves: Sequence[Any]) -> np.ndarray:
    """Stack the same leaf of several cells: floats become float32, integers int32, arrays keep their type."""
    arrays = [np.asarray(leaf) for leaf in leaves]
    kind = np.result_type(*arrays)
    if np.issubdtype(kind, np.floating):
        kind = np.dtype(np.float32)
    elif kind == np.int64:
        kind = np.dtype(np.int32)
    return np.stack([array.astype(kind) for array in arrays])


def group_cells(specs: Sequence[Any]) -> list[list[int]]:
    """Positions of the cells that share tree structure and leaf shapes, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for position, spec in enumerate(specs):
        leaves, structure = jax.tree.flatten((spec.environment, spec.learner))
        groups.setdefault((structure, tuple(np.shape(leaf) for leaf in leaves)), []).append(position)
    return list(groups.values())


def state_bytes(environment: Any, learner: Any) -> int:
    """Bytes of one cell's `TrainState`, from `jax.eval_shape`: nothing is allocated or compiled."""
    shapes = jax.eval_shape(lambda key: learner.init(key, environment), jax.eval_shape(lambda: jax.random.key(0)))
    total = 0
    for leaf in jax.tree.leaves(shapes):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        total += leaf.size * leaf.dtype.itemsize
    return int(total)


def make_packs(specs: Sequence[Any], free_bytes: int | None = None) -> list[Pack]:
    """Group, stack and, where memory demands it, split the cells of a sweep.

    Args:
      specs: cells with `environment`, `learner` and `seed` (see `marl_bench.experiments.cells.CellSpec`).
      free_bytes: device memory to plan with; None for no limit.
    Raises:
      RunError: when a single cell does not fit, naming what to lower.
    """
    packs = []
    for group in group_cells(specs):
        first = specs[group[0]]
        planned = int(state_bytes(first.environment, first.learner) * _BUFFERING)
        limit = len(group)
        if free_bytes is not None:
            limit = int(free_bytes * _USABLE_SHARE // max(planned, 1))
            if limit < 1:
                raise RunError(
                    f"one cell needs about {human_bytes(planned)}, {human_bytes(free_bytes)} are free: lower buffer_steps, "
                    "num_envs or the number of agents"
                )
        parts = -(-len(group) // min(limit, len(group)))
        size = -(-len(group) // parts)
        for start in range(0, len(group), size):
            members = group[start : start + size]
            pairs = [(specs[i].environment, specs[i].learner) for i in members]
            environment, learner = jax.tree.map(lambda *leaves: stack_leaves(leaves), *pairs)
            seeds = np.asarray([specs[i].seed for i in members], np.uint32)
            packs.append(Pack(tuple(members), Cell(environment, learner, seeds), planned))
    return packs


def human_bytes(count: float) -> str:
    """`count` with a binary unit, e.g. "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def describe_plan(packs: Sequence[Pack], steps: int, free_bytes: int | None) -> str:
    """The plan that a run prints before compiling: cells, packs, bytes against free memory, cores."""
    cells = sum(len(pack) for pack in packs)
    need = max(pack.bytes_per_cell * len(pack) for pack in packs)
    free = "unknown" if free_bytes is None else human_bytes(free_bytes)
    split = len(packs) - len({jax.tree.structure(pack.cells) for pack in packs})
    text = (
        f"plan: {cells} cells in {len(packs)} pack{'s' if len(packs) > 1 else ''} of up to {max(map(len, packs))}, "
        f"{steps:,} environment steps each; about {human_bytes(need)} of {free} free; "
        f"{len(jax.devices())} {jax.devices()[0].platform} device(s), {os.cpu_count()} processors"
    )
    return text + (f"; split {split} time(s) to fit into memory" if split else "")
