"""Packs: cells of one tree structure, stacked, so that one program trains them all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.errors import RunError, UsageError
from marl_bench.learner import Cell, Source
from marl_bench.runtime import devices

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
    """Stack the same leaf of several cells: floats become float32, integers int32, arrays keep their type.

    Raises:
      ValueError: for a number outside the range of its type.
    """
    stacked = np.stack([np.asarray(leaf) for leaf in leaves])
    if stacked.dtype == np.int64:
        return _narrowed(stacked, np.int32, np.iinfo(np.int32))
    if np.issubdtype(stacked.dtype, np.floating):
        return _narrowed(stacked, np.float32, np.finfo(np.float32))
    return stacked


def _narrowed(stacked: np.ndarray, kind: type, limits: Any) -> np.ndarray:
    wrong = stacked[np.isfinite(stacked) & ((stacked < limits.min) | (stacked > limits.max))]
    if wrong.size:
        raise ValueError(f"{wrong[0]} is outside the range of {limits.dtype} ({limits.min} to {limits.max})")
    return stacked.astype(kind, copy=False)


def group_cells(specs: Sequence[Any]) -> list[list[int]]:
    """Positions of the cells that share tree structure and leaf shapes, in order of first appearance.

    Raises:
      UsageError: for a static field that cannot be compared, such as an array.
    """
    groups: dict[Any, list[int]] = {}
    for position, spec in enumerate(specs):
        leaves, structure = jax.tree.flatten((spec.environment, spec.learner))
        try:
            groups.setdefault((structure, tuple(np.shape(leaf) for leaf in leaves)), []).append(position)
        except (TypeError, ValueError) as error:
            names = " or ".join(type(part).__name__ for part in (spec.environment, spec.learner))
            raise UsageError(f"a static field of {names} cannot be compared (an array, say): use tuples") from error
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


def cell_bytes(spec: Any) -> int:
    """Planned device memory of one cell: its state with the copies that a running program needs, and its own leaves."""
    leaves = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves((spec.environment, spec.learner)))
    return int(state_bytes(spec.environment, spec.learner) * _BUFFERING) + leaves


def shared_bytes(source: Any) -> int:
    """Device memory of the data that all cells of a pack share; two shards are alive while the next one is read."""
    return source.nbytes * min(source.shards, 2) if isinstance(source, Source) else 0


def memory_for_packs() -> int | None:
    """Bytes that packs sharded over all devices may plan with; None when unknown."""
    every = jax.devices()
    if every[0].platform == "cpu":
        return devices.free_bytes(every[0])
    free = [devices.free_bytes(device) for device in every]
    known = [count for count in free if count is not None]
    return min(known) * len(every) if len(known) == len(every) else None


def make_packs(specs: Sequence[Any], free_bytes: int | None = None) -> list[Pack]:
    """Group, stack and, where memory demands it, split the cells of a sweep.

    Args:
      specs: cells with `environment`, `learner` and `seed` (see `marl_bench.experiments.cells.CellSpec`).
      free_bytes: device memory to plan with; None for no limit.
    Raises:
      RunError: when a single cell does not fit, naming what to lower.
      UsageError: for a number outside the range of float32 or int32, naming the field.
    """
    packs = []
    for group in group_cells(specs):
        planned = cell_bytes(specs[group[0]])
        limit = len(group)
        if free_bytes is not None:
            shared = shared_bytes(specs[group[0]].environment)
            limit = int((free_bytes * _USABLE_SHARE - shared) // max(planned, 1))
            if limit < 1:
                lower = "buffer_steps, num_envs or the number of agents"
                if shared:
                    lower = f"batch_size, or bring the data in parts with a larger dataset_shards ({human_bytes(shared)} each now)"
                raise RunError(
                    f"one cell needs about {human_bytes(planned + shared)}, {human_bytes(free_bytes)} are free: lower {lower}"
                )
        parts = -(-len(group) // min(limit, len(group)))
        size = -(-len(group) // parts)
        packs += [_stack(specs, group[start : start + size], planned) for start in range(0, len(group), size)]
    return packs


def repeat_packs(specs: Sequence[Any], plan: Sequence[Sequence[int]]) -> list[Pack]:
    """The packs of an earlier start, whose checkpoints hold these cells in this order.

    Args:
      specs: cells of the sweep, as for `make_packs`.
      plan: positions of the cells of each pack.
    Raises:
      ValueError: when `plan` does not cover the sweep or joins cells that one program cannot train.
    """
    group_of = {cell: number for number, group in enumerate(group_cells(specs)) for cell in group}
    if sorted(cell for members in plan for cell in members) != list(range(len(specs))):
        raise ValueError(f"the earlier packs do not hold each of the {len(specs)} cells once")
    if any(len({group_of[cell] for cell in members}) != 1 for members in plan):
        raise ValueError("an earlier pack joins cells that one program cannot train")
    planned = {group_of[members[0]]: members[0] for members in plan}
    planned = {group: cell_bytes(specs[cell]) for group, cell in planned.items()}
    return [_stack(specs, members, planned[group_of[members[0]]]) for members in plan]


def _stack(specs: Sequence[Any], members: Sequence[int], planned: int) -> Pack:
    """One pack of the named cells."""

    def stack(path: Any, *leaves: Any) -> np.ndarray:
        try:
            return stack_leaves(leaves)
        except ValueError as error:
            raise UsageError(f"{jax.tree_util.keystr(path, simple=True, separator='.')}: {error}") from error

    environments, learners = zip(*((specs[i].environment, specs[i].learner) for i in members), strict=True)
    environment = jax.tree_util.tree_map_with_path(stack, *environments)
    learner = jax.tree_util.tree_map_with_path(stack, *learners)
    seeds: Any = np.asarray([specs[i].seed for i in members], np.uint32)
    return Pack(tuple(members), Cell(environment, learner, seeds), planned)


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
    programs = {(jax.tree.structure(p.cells), *(leaf.shape[1:] for leaf in jax.tree.leaves(p.cells))) for p in packs}
    split = len(packs) - len(programs)
    text = (
        f"plan: {cells} cells in {len(packs)} pack{'s' if len(packs) > 1 else ''} of up to {max(map(len, packs))}, "
        f"{steps:,} environment steps each; about {human_bytes(need)} of {free} free; "
        f"{len(jax.devices())} {jax.devices()[0].platform} device(s), {os.cpu_count()} processors"
    )
    return text + (f"; split {split} time(s) to fit into memory" if split else "")
