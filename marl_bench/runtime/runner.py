"""One runner for every learner: `PackRunner` compiles and drives the program that trains a pack.

Three programs a pack, each compiled once: start, train a chunk, evaluate. The cell axis is sharded over the
devices (CPU cores count as devices, see `marl_bench.runtime.devices.use_cpu_cores`); cells never communicate.
Where there are more devices than cells, the environments of each cell are divided over several devices, see
`marl_bench.sharding`. The state is donated. Nothing leaves the device between chunks but the chunk's mean metrics.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from marl_bench import sharding
from marl_bench.learner import Cell, Source
from marl_bench.runtime.feed import Feed
from marl_bench.runtime.packs import Pack

LEAST_ENVIRONMENTS = 256
"""Environments of one cell that a device must get: a cautious guess of where help outweighs what devices tell each other."""

_AXIS = "cells"


def _over_cells(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.vmap(function, spmd_axis_name=_AXIS if sharding.is_split() else None)


def _with_key(cell: Cell) -> Cell:
    # Named, because a user's `jax_default_prng_impl` must not change what a seed means.
    return dataclasses.replace(cell, key=jax.random.key(cell.key, impl="threefry2x32"))


def _start(cells: Cell, change: Callable[[Any], Any] = lambda learner: learner) -> Any:
    def one(cell: Cell) -> Any:
        cell = _with_key(cell)
        return jax.tree.map(_strong, change(cell.learner).init(cell.key, cell.environment))

    return _over_cells(one)(cells)


def _strong(leaf: jax.Array) -> jax.Array:
    """Drop a weak type: a checkpoint does not keep it, and a resumed run must be the same program."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(leaf, leaf.dtype)


def _all_finite(tree: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in leaves], jnp.bool_(True))


def _source(cell: Cell, data: Any) -> Any:
    return cell.environment.with_data(data) if isinstance(cell.environment, Source) else cell.environment


def _train_chunk(
    state: Any, cells: Cell, data: Any, num_updates: jax.Array
) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    """`num_updates` iterations of every cell: state, metrics averaged over the chunk [cells], finite [cells] bool."""

    def update(one_state: Any, cell: Cell) -> tuple[Any, dict[str, jax.Array]]:
        return cell.learner.update(one_state, _source(cell, data))

    def body(_: jax.Array, carry: tuple[Any, dict[str, jax.Array]]) -> tuple[Any, dict[str, jax.Array]]:
        carried, total = carry
        carried, metrics = _over_cells(update)(carried, cells)
        return carried, jax.tree.map(jnp.add, total, metrics)

    shapes = jax.eval_shape(_over_cells(update), state, cells)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    state, total = jax.lax.fori_loop(0, num_updates, body, (state, zeros))
    means = jax.tree.map(lambda leaf: leaf / num_updates, total)
    return state, means, jax.vmap(_all_finite)((means, state.params))


def _evaluate(state: Any, cells: Cell, data: Any) -> dict[str, jax.Array]:
    return _over_cells(lambda one, cell: cell.learner.evaluate(one, _source(cell, data)))(state, cells)


@dataclasses.dataclass
class Timing:
    """Seconds spent: tracing and lowering, compiling, and running (compilation apart)."""

    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    run_seconds: float = 0.0


def _player(learner: Any) -> Any:
    """What has the number of environments: `learner`, or what it wraps."""
    return getattr(learner, "learner", learner)


def _with_num_envs(learner: Any, num_envs: int) -> Any:
    if hasattr(learner, "learner"):
        return dataclasses.replace(learner, learner=_with_num_envs(learner.learner, num_envs))
    return dataclasses.replace(learner, num_envs=num_envs)


def _split_specs(cells: Cell, num_envs: int) -> Any:
    """How each leaf of the state is divided: an axis as long as there are environments, and twice that with twice as many."""

    def spec(leaf: Any, wide: Any) -> PartitionSpec:
        lengths = enumerate(zip(leaf.shape, wide.shape, strict=True))
        found = [axis for axis, pair in lengths if axis and pair == (num_envs, 2 * num_envs)]
        return PartitionSpec(_AXIS, *[None] * (found[0] - 1), sharding.AXIS) if found else PartitionSpec(_AXIS)

    wide = jax.eval_shape(lambda cells: _start(cells, lambda learner: _with_num_envs(learner, 2 * num_envs)), cells)
    return jax.tree.map(spec, jax.eval_shape(_start, cells), wide)


def devices_of_cell(learner: Any, available: int) -> int:
    """Number of devices among which the environments of one cell are divided.

    The most that get equal shares of at least `LEAST_ENVIRONMENTS`; 1 if there are none.
    """
    num_envs = getattr(_player(learner), "num_envs", 1)
    most = min(available, num_envs // LEAST_ENVIRONMENTS)
    return max((count for count in range(1, most + 1) if num_envs % count == 0), default=1)


class PackRunner:
    """Trains one pack.

    Args:
      pack: the stacked cells.
      devices: where to run; None for all of JAX's devices.
    """

    def __init__(self, pack: Pack, devices: list[Any] | None = None) -> None:
        available = list(jax.devices() if devices is None else devices)
        groups = min(len(pack), len(available))
        share = devices_of_cell(pack.cells.learner, len(available) // groups)
        self.pack = pack
        self.timing = Timing()
        used = np.array(available[: groups * share]).reshape(groups, share)
        self._mesh = Mesh(used, (_AXIS, sharding.AXIS)) if share > 1 else Mesh(used[:, 0], (_AXIS,))
        self._sharding = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        # Every device gets the same number of cells: the last cell is repeated, its copies are dropped on the way out.
        self._padding = -len(pack) % groups
        self._cells = jax.device_put(self._padded(pack.cells), self._sharding)
        self._state_sharding: Any = self._sharding
        if share > 1:
            specs = _split_specs(pack.cells, _player(pack.cells.learner).num_envs)
            self._state_sharding = jax.tree.map(lambda spec: NamedSharding(self._mesh, spec), specs)
        self._programs: dict[str, Any] = {}
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        source = pack.cells.environment
        self._feed = (
            Feed(lambda shard: jax.device_put(source.load(shard), self._replicated), source.shards)
            if isinstance(source, Source)
            else None
        )

    def _run(self, name: str, function: Any, donate: tuple[int, ...], scalars: int, *arguments: Any) -> Any:
        """Call `function` sharded over the cells (its last `scalars` arguments replicated); compile at first use."""
        if name not in self._programs:
            began = time.perf_counter()
            lowered = self._lowered(name, function, donate, scalars, *arguments)
            self.timing.lower_seconds += time.perf_counter() - began
            began = time.perf_counter()
            self._programs[name] = lowered.compile()
            self.timing.compile_seconds += time.perf_counter() - began
        began = time.perf_counter()
        result = jax.block_until_ready(self._programs[name](*arguments))
        self.timing.run_seconds += time.perf_counter() - began
        return result

    def _lowered(self, name: str, function: Any, donate: tuple[int, ...], scalars: int, *arguments: Any) -> Any:
        if sharding.AXIS in self._mesh.axis_names:
            rows = self._sharding
            out = {_start: self._state_sharding, _train_chunk: (self._state_sharding, rows, rows), _evaluate: rows}
            with jax.set_mesh(self._mesh):
                return jax.jit(function, donate_argnums=donate, out_shardings=out[function]).lower(*arguments)
        split = PartitionSpec(_AXIS)
        in_specs = (split,) * (len(arguments) - scalars) + (PartitionSpec(),) * scalars
        mapped = jax.shard_map(function, mesh=self._mesh, in_specs=in_specs, out_specs=split, check_vma=False)
        mapped.__name__ = name  # type: ignore[attr-defined]
        return jax.jit(mapped, donate_argnums=donate).lower(*arguments)

    def start(self) -> Any:
        """The pack's `TrainState` before the first update, leaves with a leading cell axis."""
        return self._run("start_pack", _start, (), 0, self._cells)

    def train(self, state: Any, num_updates: int, chunk: int = 0) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
        """Run `num_updates` iterations of every cell; `state` is donated and must not be used again.

        Args:
          chunk: number of this call in the run, from 0; decides which shard of the data is learned from, if there are several.
        Returns:
          state; metrics averaged over the chunk, [cells] each; finite [cells] bool: all metrics and parameters are.
        """
        count = jax.device_put(np.int32(num_updates), self._replicated)
        inputs = (state, self._cells, self._data(chunk), count)
        state, metrics, finite = self._run("train_chunk", _train_chunk, (0,), 2, *inputs)
        return state, self._to_host(metrics), self._to_host(finite)

    def evaluate(self, state: Any) -> dict[str, np.ndarray]:
        """The learner's evaluation: arrays with a leading cell axis."""
        return self._to_host(self._run("evaluate_pack", _evaluate, (), 1, state, self._cells, self._data(0)))

    def _data(self, chunk: int) -> Any:
        return None if self._feed is None else self._feed.get(chunk)

    def template(self) -> Any:
        """Shapes and dtypes of the pack's `TrainState` as `unpadded` gives it; nothing is compiled."""
        return jax.eval_shape(_start, self.pack.cells)

    def unpadded(self, state: Any) -> Any:
        """`state` without the copies that fill up the devices, so that it fits any number of devices."""
        return self._map_rows(lambda rows: rows[: len(self.pack)], state) if self._padding else state

    def place(self, state: Any) -> Any:
        """Put the pack's state, as `unpadded` gives it, onto the devices."""
        return jax.device_put(self._padded(state), self._state_sharding)

    def _padded(self, tree: Any) -> Any:
        if not self._padding:
            return tree
        filled = np.minimum(np.arange(len(self.pack) + self._padding), len(self.pack) - 1)
        return self._map_rows(lambda rows: rows[filled], tree)

    @staticmethod
    def _map_rows(change: Callable[[np.ndarray], np.ndarray], tree: Any) -> Any:
        """Apply `change` to every leaf on the host, to the words of typed keys."""

        def one(leaf: Any) -> Any:
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                words = change(np.asarray(jax.random.key_data(leaf)))
                return jax.random.wrap_key_data(jnp.asarray(words), impl=jax.random.key_impl(leaf))
            return change(np.asarray(leaf))

        return jax.tree.map(one, tree)

    def _to_host(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(self.pack)], tree)


def first_bad_leaf(state: Any, metrics: dict[str, np.ndarray], position: int) -> str:
    """Name of the first metric or parameter of the cell at `position` that is NaN or infinite."""
    for name, value in metrics.items():
        if not np.isfinite(value[position]).all():
            return f"metric {name}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf[position])).all():
            return f"params{jax.tree_util.keystr(path)}"
    return "an unnamed leaf"
