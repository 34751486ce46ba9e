"""Start states of level-based foraging: where agents and food stand, and their levels.

Unlike `rules`, these functions are for one environment; batches come by `vmap`. A food that finds no free cell is absent:
level 0, row and column -1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    derived = jnp.sum(jnp.where(_rank(agent_level) < MASTERS, agent_level, 0))
    highest = derived if highest is None else jnp.asarray(highest, jnp.int32)
    return highest if force_coop else jnp.asarray(lowest, jnp.int32), highest


def _rank(values: Array) -> Array:
    """[C] int32: place of each value in ascending order, equal ones in their own; compares, where a sort compiles slowly."""
    index = np.arange(values.shape[0])
    ahead = (values[None] < values[:, None]) | ((values[None] == values[:, None]) & (index[None] < index[:, None]))
    return jnp.sum(ahead, axis=1, dtype=jnp.int32)


class _Board(NamedTuple):
    """What stands where while things are placed: sets of cells [R * W] (see `bitboard`) and rows [R * W].

    Attributes:
      taken: cells of things. near: cells too near to a food for another one.
      crossed: rows whose index is the row or the column of a food.
    """

    taken: Array
    near: Array
    crossed: Array


def _place(
    bits: Array, is_food: np.ndarray, free: Callable[[_Board, Any], Array], rows: int, cols: int, apart: int
) -> tuple[Array, Array]:
    """Place things one after the other, each uniform over the cells that are free for it.

    One loop for agents and food: a second one would be compiled, too.

    Args:
      bits: [C] uint32 uniform words, one a thing; their upper 24 bits are used.
      is_food: [C] bool, in the order in which things are placed.
      free: (board, is_food []) -> [R * W] uint32 cells.
      rows: rows of the board. cols: its columns.
      apart: least number of steps (L1) between two foods.
    Returns:
      row: [C] int32, and col: [C] int32; -1 where no cell was left.
    """
    length = rows * bitboard.words_a_row(cols)
    index = bitboard.rows_of(rows, cols)

    def place(board: _Board, thing: tuple[Array, Array]) -> tuple[_Board, tuple[Array, Array]]:
        word, food = thing
        row, col = bitboard.choose(free(board, food), word, cols)
        around = bitboard.diamond(row, col, apart - 1, length, cols)
        board = _Board(
            taken=board.taken | bitboard.diamond(row, col, 0, length, cols),
            near=board.near | jnp.where(food, around, 0),
            crossed=board.crossed | (food & ((index == row) | (index == col))),
        )
        return board, (row, col)

    empty = jnp.zeros(length, jnp.uint32)
    return jax.lax.scan(place, _Board(empty, empty, jnp.zeros(length, bool)), (bits, jnp.asarray(is_food)))[1]


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
    everywhere, inside = (bitboard.interior(rows, cols, margin) for margin in (0, 1))

    def free(board: _Board, food: Array) -> Array:
        return jnp.where(food, inside & ~board.near, everywhere) & ~board.taken

    row, col = _place(bits, np.arange(len(bits)) >= agents, free, rows, cols, apart=3)
    food_row, food_col = row[agents:], col[agents:]
    rank = _rank(jnp.where(food_row < 0, rows * cols, food_row * cols + food_col))
    here = rank == np.arange(len(rank))[:, None]
    listed = [jnp.sum(jnp.where(here, place, 0), axis=1) for place in (food_row, food_col)]
    return (row[:agents], col[:agents]), (listed[0], listed[1])


def jumanji_places(bits: Array, agents: int, rows: int, cols: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Food off the border, two steps apart, then agents; arguments and results as for `lbforaging_places`.

    As in Jumanji 1.1.2, no agent starts on a row whose index is the row *or the column* of a food. Where that leaves too few
    cells, agents start on any cell without food (Jumanji would stack them).
    """
    everywhere, inside = (bitboard.interior(rows, cols, margin) for margin in (0, 1))
    food = len(bits) - agents

    def free(board: _Board, is_food: Array) -> Array:
        allowed = jnp.where(board.crossed, 0, everywhere)
        allowed = jnp.where(bitboard.size(allowed) >= agents, allowed, everywhere) & ~board.taken
        return jnp.where(is_food, inside & ~board.near, allowed)

    row, col = _place(bits, np.arange(len(bits)) < food, free, rows, cols, apart=2)
    return (row[food:], col[food:]), (row[:food], col[:food])
