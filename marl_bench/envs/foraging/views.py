"""What the agents of level-based foraging see: lists of things, or windows of the board.

Shapes as in `rules`: N agents, F foods, axes of a batch behind. Sight is the number of cells that an agent sees in each of the
eight directions; positions in lists count from the upper left corner of the part of that window that lies on the board.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Things = tuple[Array, Array, Array]
"""([K] rows, [K] columns, [K] levels)."""

_CODE = 128
"""More than any level, so that `index * _CODE + level` keeps both."""


def food_list(row: Array, col: Array, food: Things, sight: int, whole: bool, compact: bool) -> Things:
    """Food as each agent sees it: three arrays [N, F] (row, column, level), -1, -1 and 0 for what is not seen.

    Args:
      row: [N] integers. col: [N] integers.
      food: ([F] rows, [F] columns, [F] levels), in the order in which they are listed.
      sight: see the module.
      whole: every agent sees the whole board, wherever it stands.
      compact: whether the food that is seen fills the list from its start (else every food keeps its slot).
    """
    food_row, food_col, food_level = food
    count = row.shape[0]
    there = food_level > 0
    if whole:
        # All agents see the same: one list for all of them.
        seen = (there[None], food_row[None], food_col[None])
    else:
        near = _within(row, food_row, sight) & _within(col, food_col, sight) & there[None]
        seen = (near, food_row[None] - _corner(row, sight)[:, None], food_col[None] - _corner(col, sight)[:, None])
    slots = _listed(seen[0], (seen[1], seen[2], jnp.broadcast_to(food_level[None], seen[0].shape)), compact)
    return tuple(jnp.broadcast_to(slot, (count, *slot.shape[1:])) for slot in slots)  # pyright: ignore


def agent_list(row: Array, col: Array, level: Array, sight: int, whole: bool, compact: bool) -> Things:
    """Agents as each agent sees them, itself first, then the others by index: three arrays [N, N] as in `food_list`.

    Compact lists are lbforaging's, which sees agents (not food) up to 2 * sight cells from the corner of the visible part:
    farther than `sight` near the upper and left edge. Otherwise it is Jumanji's: up to `sight` cells from the agent.

    Args:
      row: [N] integers. col: [N] integers. level: [N] integers.
      sight: see the module. whole: as for `food_list`. compact: as for `food_list`.
    """
    others = _self_first(row), _self_first(col), _self_first(level)
    if whole:
        return others
    away_row = others[0] - _corner(row, sight)[:, None]
    away_col = others[1] - _corner(col, sight)[:, None]
    if compact:
        near = (away_row >= 0) & (away_row <= 2 * sight) & (away_col >= 0) & (away_col <= 2 * sight)
    else:
        near = (jnp.abs(others[0] - row[:, None]) <= sight) & (jnp.abs(others[1] - col[:, None]) <= sight)
    return _listed(near, (away_row, away_col, others[2]), compact)


def _self_first(values: Array) -> Array:
    """[N, N]: row i lists value i, then the others in order."""
    count = values.shape[0]
    extra = (1,) * (values.ndim - 1)
    agent = np.arange(count).reshape(count, 1, *extra)
    slot = np.arange(count).reshape(1, count, *extra)
    before = jnp.roll(values, 1, axis=0)
    return jnp.where(slot == 0, values[:, None], jnp.where(slot <= agent, before[None], values[None]))


def _corner(position: Array, sight: int) -> Array:
    """First row (or column) of the visible part of the board."""
    return jnp.maximum(position - sight, 0)


def _within(position: Array, other: Array, sight: int) -> Array:
    """[N, K] bool: at most `sight` apart along one axis?"""
    return jnp.abs(position[:, None] - other[None]) <= sight


def _listed(seen: Array, values: Things, compact: bool) -> Things:
    """Lists [M, K] with -1, -1, 0 in the slots of what is not `seen` [M, K]; compact ones close the gaps."""
    empty = (-1, -1, 0)
    if not compact:
        return tuple(jnp.where(seen, v, e) for v, e in zip(values, empty, strict=True))  # pyright: ignore
    size = seen.shape[1]
    extra = (1,) * (seen.ndim - 2)
    before = (np.arange(size)[:, None] > np.arange(size)[None]).reshape(1, size, size, *extra)
    slot = jnp.sum(before & seen[:, None], axis=2)
    goes = (slot[:, None] == np.arange(size).reshape(1, size, 1, *extra)) & seen[:, None]
    filled = jnp.arange(size).reshape(1, size, *extra) < jnp.sum(seen, axis=1)[:, None]
    picked = [jnp.sum(jnp.where(goes, v[:, None], 0), axis=2, dtype=v.dtype) for v in values]
    return tuple(jnp.where(filled, v, e) for v, e in zip(picked, empty, strict=True))  # pyright: ignore


def windows(
    row: Array, col: Array, level: Array, food: Things, rows: int, cols: int, sight: int, levels: bool
) -> Array:
    """[N, 3, 2 sight + 1, 2 sight + 1] float32 windows of the board with each agent in the middle of its own.

    Layer 0: levels of agents (1 each without `levels`; of several on one cell, the last one). Layer 1: levels of food.
    Layer 2: 1 on cells of the board without agent and food. Cells outside the board are 0 everywhere.

    Args:
      row: [N] integers. col: [N] integers. level: [N] integers.
      food: ([F] rows, [F] columns, [F] levels).
      rows: rows of the board. cols: its columns. sight: see the module.
      levels: whether levels of agents are shown.
    """
    count, extra = row.shape[0], (1,) * (row.ndim - 1)
    offset = np.arange(-sight, sight + 1).reshape(1, -1, *extra)
    at_row, at_col = row[:, None] + offset, col[:, None] + offset

    def cover(other_row: Array, other_col: Array, value: Array) -> Array:
        """[N, W, W] largest value on each cell of each window; 0 where there is none."""
        in_row = at_row[:, None, :, None] == other_row[None, :, None, None]
        in_col = at_col[:, None, None, :] == other_col[None, :, None, None]
        return jnp.max(jnp.where(in_row & in_col, value[None, :, None, None], 0), axis=1)

    index = jnp.arange(1, count + 1, dtype=jnp.int32).reshape(count, *extra)
    code = cover(row, col, index * _CODE + level)
    agent_layer = code % _CODE if levels else (code > 0).astype(code.dtype)
    food_layer = cover(*food)
    inside_row, inside_col = (at_row >= 0) & (at_row < rows), (at_col >= 0) & (at_col < cols)
    free = inside_row[:, :, None] & inside_col[:, None] & (code == 0) & (food_layer == 0)
    return jnp.stack([layer.astype(jnp.float32) for layer in (agent_layer, food_layer, free)], axis=1)


def vector(foods: Things, agents: Things, levels: bool) -> Array:
    """[N, 3 F + 3 N] float32: the triples of `food_list`, then those of `agent_list` ([N, 3 F + 2 N] without levels)."""
    count = foods[0].shape[0]
    block_food = jnp.stack(foods, axis=2)
    block_agents = jnp.stack(agents if levels else agents[:2], axis=2)
    rest = foods[0].shape[2:]
    parts = [block.reshape(count, -1, *rest) for block in (block_food, block_agents)]
    return jnp.concatenate(parts, axis=1).astype(jnp.float32)
