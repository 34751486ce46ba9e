"""Start states of level-based foraging: where agents and food stand, and their levels.

Unlike `rules`, these functions are for one environment; batches come by `vmap`. A food that finds no free cell is absent:
level 0, row and column -1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

MASTERS = 3
"""Agents that suffice for any food, unless its level is set: no food is above the three weakest agents together."""


def _cells(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every cell, [rows * cols] each."""
    row, col = np.divmod(np.arange(rows * cols, dtype=np.int32), cols)
    return row, col


def _interior(rows: int, cols: int) -> np.ndarray:
    row, col = _cells(rows, cols)
    return (row > 0) & (row < rows - 1) & (col > 0) & (col < cols - 1)


def draw_levels(key: Array, lowest: Any, highest: Any, count: int) -> Array:
    """[count] int32 levels, each uniform between two bounds.

    Args:
      key: [] typed key.
      lowest: [] or [count] integers. highest: [] or [count] integers, >= `lowest`. Bounds given as lists go to the things in
        random order, pair by pair.
      count: number of things.
    """
    lowest, highest = (jnp.asarray(bound, jnp.int32) for bound in (lowest, highest))
    listed = lowest.ndim or highest.ndim
    lowest, highest = (jnp.broadcast_to(bound, (count,)) for bound in (lowest, highest))
    if listed:
        key, key_order = jax.random.split(key)
        order = jax.random.permutation(key_order, count)
        lowest, highest = lowest[order], highest[order]
    # A remainder of 32 bits: one draw where `randint` needs three, and uniform to within 2^-25 for at most 126 levels.
    span = (highest - lowest + 1).astype(jnp.uint32)
    return lowest + (jax.random.bits(key, (count,)) % span).astype(jnp.int32)


def food_bounds(agent_level: Array, lowest: Any, highest: Any, force_coop: bool) -> tuple[Array, Array]:
    """Bounds of the levels of food, each [] or [F] int32.

    Args:
      agent_level: [N] int32.
      lowest: [] or [F] integers, unused with `force_coop`.
      highest: [] or [F] integers; None for the sum of the three lowest levels of the agents.
      force_coop: whether every food has the highest level.
    """
    derived = jnp.sum(jnp.sort(agent_level)[:MASTERS])
    highest = derived if highest is None else jnp.asarray(highest, jnp.int32)
    return highest if force_coop else jnp.asarray(lowest, jnp.int32), highest


def place_apart(key: Array, allowed: Array, count: int, rows: int, cols: int, apart: int) -> tuple[Array, Array]:
    """Place things one after the other, each uniform over the allowed cells far enough from those before it.

    Args:
      key: [] typed key.
      allowed: [rows * cols] bool.
      count: number of things.
      rows: rows of the board. cols: its columns.
      apart: least number of steps (L1) between two things.
    Returns:
      row: [count] int32, and col: [count] int32; -1 where no cell was left.
    """
    row, col = _cells(rows, cols)

    def place(free: Array, bits: Array) -> tuple[Array, tuple[Array, Array]]:
        # The largest of independent random numbers is at a uniform cell; 0 is below all of them.
        chosen = jnp.argmax(jnp.where(free, (bits >> 1) + 1, 0))
        here = jnp.any(free)
        at_row, at_col = chosen // cols, chosen % cols
        far = jnp.abs(row - at_row) + jnp.abs(col - at_col) >= apart
        return free & far, (jnp.where(here, at_row, -1), jnp.where(here, at_col, -1))

    _, (at_row, at_col) = jax.lax.scan(place, allowed, jax.random.bits(key, (count, rows * cols)))
    return at_row.astype(jnp.int32), at_col.astype(jnp.int32)


def place_anywhere(key: Array, allowed: Array, count: int, cols: int) -> tuple[Array, Array]:
    """[count] int32 rows and columns of different cells, uniform over the allowed ones (of which there must be `count`)."""
    bits = jax.random.bits(key, allowed.shape)
    chosen = jnp.argsort(jnp.where(allowed, bits >> 1, jnp.uint32(2**32 - 1)))[:count].astype(jnp.int32)
    return chosen // cols, chosen % cols


def lbforaging_places(
    key: Array, agents: int, food: int, rows: int, cols: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Agents on any cells, then food off the border, three steps apart, and not under an agent.

    The food is listed row by row, absent food last.

    Args:
      key: [] typed key.
      agents: number of agents. food: number of foods.
      rows: rows of the board. cols: its columns.
    Returns:
      ([N] rows, [N] columns) of the agents, and ([F] rows, [F] columns) of the food, int32.
    """
    key_agents, key_food = jax.random.split(key)
    row, col = place_anywhere(key_agents, jnp.ones(rows * cols, bool), agents, cols)
    cell_row, cell_col = _cells(rows, cols)
    taken = jnp.any((cell_row[:, None] == row) & (cell_col[:, None] == col), axis=1)
    food_row, food_col = place_apart(key_food, jnp.asarray(_interior(rows, cols)) & ~taken, food, rows, cols, 3)
    order = jnp.argsort(jnp.where(food_row < 0, rows * cols, food_row * cols + food_col))
    return (row, col), (food_row[order], food_col[order])


def jumanji_places(
    key: Array, agents: int, food: int, rows: int, cols: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Food off the border, two steps apart, then agents; arguments and results as for `lbforaging_places`.

    As in Jumanji 1.1.2, no agent starts on a row whose index is the row *or the column* of a food. Where that leaves too few
    cells, agents start on any cell without food (Jumanji would stack them).
    """
    key_food, key_agents = jax.random.split(key)
    food_row, food_col = place_apart(key_food, jnp.asarray(_interior(rows, cols)), food, rows, cols, 2)
    cell_row, cell_col = _cells(rows, cols)
    allowed = jnp.all((cell_row[:, None] != food_row) & (cell_row[:, None] != food_col), axis=1)
    free = jnp.all((cell_row[:, None] != food_row) | (cell_col[:, None] != food_col), axis=1)
    allowed = jnp.where(jnp.sum(allowed) >= agents, allowed, free)
    return place_anywhere(key_agents, allowed, agents, cols), (food_row, food_col)
