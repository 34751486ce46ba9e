"""Start states of level-based foraging: where agents and food stand, and their levels.

Unlike `rules`, these functions are for one environment; batches come by `vmap`. A food that finds no free cell is absent:
level 0, row and column -1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.envs import bitboard

Array = jax.Array

MASTERS = 3
"""Agents that suffice for any food, unless its level is set: no food is above the three weakest agents together."""


def draw_levels(bits: Array, lowest: Any, highest: Any) -> Array:
    """[C] int32 levels, each uniform between two bounds.

    Args:
      bits: [2, C] uint32 uniform words; the second row is for bounds that are lists.
      lowest: [] or [C] integers. highest: [] or [C] integers, >= `lowest`. Bounds given as lists go to the things in
        random order, pair by pair.
    """
    lowest, highest = (jnp.asarray(bound, jnp.int32) for bound in (lowest, highest))
    if lowest.ndim or highest.ndim:
        order = jnp.argsort(bits[1])
        lowest, highest = (jnp.broadcast_to(bound, bits.shape[1:])[order] for bound in (lowest, highest))
    # A remainder of 32 bits is uniform to within 2^-25 for at most 126 levels.
    span = (highest - lowest + 1).astype(jnp.uint32)
    return lowest + (bits[0] % span).astype(jnp.int32)


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


def place_apart(bits: Array, allowed: Array, cols: int, apart: int) -> tuple[Array, Array]:
    """Place things one after the other, each uniform over the allowed cells far enough from those before it.

    Args:
      bits: [C] uint32 uniform words, one a thing; their upper 24 bits are used.
      allowed: [R * W] uint32, a set of cells of a board of `cols` columns.
      cols: columns of the board.
      apart: least number of steps (L1) between two things.
    Returns:
      row: [C] int32, and col: [C] int32; -1 where no cell was left.
    """

    def place(free: Array, word: Array) -> tuple[Array, tuple[Array, Array]]:
        row, col = bitboard.choose(free, word, cols)
        return free & ~bitboard.diamond(row, col, apart - 1, free.shape[0], cols), (row, col)

    return jax.lax.scan(place, allowed, bits)[1]


def lbforaging_places(
    bits: Array, agents: int, rows: int, cols: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Agents on any cells, then food off the border, three steps apart, and not under an agent.

    The food is listed row by row, absent food last.

    Args:
      bits: [N + F] uint32 uniform words.
      agents: N, number of agents.
      rows: rows of the board. cols: its columns.
    Returns:
      ([N] rows, [N] columns) of the agents, and ([F] rows, [F] columns) of the food, int32.
    """
    row, col = place_apart(bits[:agents], jnp.asarray(bitboard.interior(rows, cols, 0)), cols, 1)
    taken = bitboard.holding(row, col, rows, cols)
    food_row, food_col = place_apart(bits[agents:], jnp.asarray(bitboard.interior(rows, cols, 1)) & ~taken, cols, 3)
    cell = jnp.where(food_row < 0, rows * cols, food_row * cols + food_col)
    cell = jnp.sort(cell)
    here = cell < rows * cols
    return (row, col), (jnp.where(here, cell // cols, -1), jnp.where(here, cell % cols, -1))


def jumanji_places(bits: Array, agents: int, rows: int, cols: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Food off the border, two steps apart, then agents; arguments and results as for `lbforaging_places`.

    As in Jumanji 1.1.2, no agent starts on a row whose index is the row *or the column* of a food. Where that leaves too few
    cells, agents start on any cell without food (Jumanji would stack them).
    """
    food_row, food_col = place_apart(bits[agents:], jnp.asarray(bitboard.interior(rows, cols, 1)), cols, 2)
    board = bitboard.interior(rows, cols, 0)
    row = bitboard.rows_of(rows, cols)[:, None]
    allowed = jnp.where(jnp.any((row == food_row) | (row == food_col), axis=1), 0, board)
    free = board & ~bitboard.holding(food_row, food_col, rows, cols)
    allowed = jnp.where(bitboard.size(allowed) >= agents, allowed, free)
    return place_apart(bits[:agents], allowed, cols, 1), (food_row, food_col)
