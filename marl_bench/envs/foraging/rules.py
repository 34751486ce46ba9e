"""Rules of level-based foraging as functions on arrays: moves, loading, legal actions.

Sources: PyPI `lbforaging` 2.0.0 and Jumanji 1.1.2 (`LevelBasedForaging`), which differ; see `docs/environments/foraging.md`.

Shapes: N agents, F foods, rows count downwards and columns to the right. Every function also takes batches whose axes stand
*behind*: row [N, B], food_row [F, B]. A food of level 0 is not there (eaten, or never placed); where it lies does not matter.
Everything is a comparison or a sum over pairs, without gathers and scatters, so that a batch compiles to a few vector loops.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NONE, NORTH, SOUTH, WEST, EAST, LOAD = range(6)
NUM_ACTIONS = 6

Array = jax.Array


def intended(row: Array, col: Array, actions: Array) -> tuple[Array, Array]:
    """[N] row and [N] column that each agent heads for; its own cell if it does not move.

    Args:
      row: [N] integers. col: [N] integers.
      actions: [N] integers in 0 ... 5.
    """
    down = (actions == SOUTH).astype(row.dtype) - (actions == NORTH).astype(row.dtype)
    right = (actions == EAST).astype(col.dtype) - (actions == WEST).astype(col.dtype)
    return row + down, col + right


def on_food(row: Array, col: Array, food_row: Array, food_col: Array, food_level: Array) -> Array:
    """[N] bool: does food lie on cell (row, col)?"""
    same = (row[:, None] == food_row[None]) & (col[:, None] == food_col[None]) & (food_level > 0)[None]
    return jnp.any(same, axis=1)


def _others(same: Array) -> Array:
    """[N] bool: is any entry of a row of `same` [N, N, ...] true, apart from the diagonal's?"""
    count = same.shape[0]
    apart = (jnp.arange(count)[:, None] != jnp.arange(count)[None]).reshape(count, count, *(1,) * (same.ndim - 2))
    return jnp.any(same & apart, axis=1)


def _meet(row: Array, col: Array, other_row: Array, other_col: Array) -> Array:
    """[N] bool: is (row, col) of agent i equal to (other_row, other_col) of an agent j != i?"""
    return _others((row[:, None] == other_row[None]) & (col[:, None] == other_col[None]))


def move(
    row: Array, col: Array, actions: Array, food: tuple[Array, Array, Array], rows: int, cols: int, strict: bool
) -> tuple[Array, Array]:
    """Where the agents stand after all of them have moved at once.

    A move off the board or into food becomes a stay. Then, with `strict=False` (lbforaging): whoever heads for a cell that
    nobody else heads for gets there, all others stay; heading for the own cell counts. So agents may swap, follow each
    other, rotate, and even end up on one cell: when one that fails to leave is run into. With `strict=True` (Jumanji): a
    cell on which any agent stood before the step cannot be entered, and a contested cell is entered by nobody.

    Args:
      row: [N] integers. col: [N] integers.
      actions: [N] integers in 0 ... 5.
      food: ([F] rows, [F] columns, [F] levels).
      rows: rows of the board. cols: its columns.
      strict: which of the two collision rules holds.
    Returns:
      row: [N], and col: [N], of the same dtypes.
    """
    to_row, to_col = intended(row, col, actions)
    blocked = (to_row < 0) | (to_row >= rows) | (to_col < 0) | (to_col >= cols) | on_food(to_row, to_col, *food)
    if strict:
        blocked = blocked | _meet(to_row, to_col, row, col)
    to_row, to_col = jnp.where(blocked, row, to_row), jnp.where(blocked, col, to_col)
    contested = _meet(to_row, to_col, to_row, to_col)
    return jnp.where(contested, row, to_row), jnp.where(contested, col, to_col)


def adjacent(row: Array, col: Array, food_row: Array, food_col: Array) -> Array:
    """[N, F] bool: is the food on one of the four cells beside the agent?"""
    return jnp.abs(row[:, None] - food_row[None]) + jnp.abs(col[:, None] - food_col[None]) == 1


def load(
    row: Array, col: Array, level: Array, loads: Array, food: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Who loads what: the agents beside a food that play LOAD lift it together if their levels add up to its own.

    Args:
      row: [N] integers, after the moves. col: [N]. level: [N] integers.
      loads: [N] bool, agents that play LOAD.
      food: ([F] rows, [F] columns, [F] levels).
    Returns:
      member: [N, F] bool, agent i tries to load food k.
      strength: [F] int32, sum of the levels of those who try.
      lifted: [F] bool, the food is loaded in this step.
    """
    food_row, food_col, food_level = food
    member = adjacent(row, col, food_row, food_col) & loads[:, None] & (food_level > 0)[None]
    strength = jnp.sum(jnp.where(member, level[:, None].astype(jnp.int32), 0), axis=0)
    return member, strength, (strength >= food_level) & (food_level > 0)


def shares(
    member: Array, strength: Array, lifted: Array, level: Array, food_level: Array, total: Array, normalize: bool
) -> Array:
    """[N] float32 rewards for loaded food: each member of the group gets its level times the food's.

    Normalised, this is divided by the strength of the group and by all food of the episode, so that an episode that clears
    the board pays 1 in sum.

    Args:
      member: [N, F] bool. strength: [F] int32. lifted: [F] bool. From `load`.
      level: [N] integers, levels of the agents. food_level: [F] integers, levels before the step.
      total: [] int32, levels of all food placed in this episode.
      normalize: whether to divide.
    """
    paid = member & lifted[None]
    earned = jnp.where(paid, level[:, None].astype(jnp.int32) * food_level[None].astype(jnp.int32), 0)
    value = earned.astype(jnp.float32)
    if normalize:
        # One quotient of two integers, as in the references, so that the result is theirs to the last bit. A divisor of its
        # own for every pair: the compiler turns division by a broadcast number into another multiplication.
        value = value / jnp.where(paid, (strength * total)[None], 1).astype(jnp.float32)
    return jnp.sum(value, axis=1)


def fines(
    member: Array, strength: Array, lifted: Array, total: Array, penalty: Any, normalize: bool, shared: bool
) -> Array:
    """[N] float32 penalties for groups that tried to load a food and were too weak.

    Args:
      member: [N, F] bool. strength: [F] int32. lifted: [F] bool. total: [] int32. As for `shares`.
      penalty: [] number >= 0.
      normalize: whether rewards are normalised.
      shared: False (lbforaging): each member of the group pays `penalty`. True (Jumanji): every agent of the board pays it
        for each such group, and normalisation divides it like a reward.
    """
    failed = (strength > 0) & ~lifted
    if not shared:
        return jnp.where(jnp.any(member & failed[None], axis=1), jnp.float32(penalty), 0.0)
    fine = jnp.where(failed, jnp.float32(penalty), 0.0)
    if normalize:
        fine = fine / jnp.maximum(strength * total, 1).astype(jnp.float32)
    return jnp.broadcast_to(jnp.sum(fine, axis=0)[None], member.shape[:1] + fine.shape[1:])


def legal(row: Array, col: Array, food: tuple[Array, Array, Array], rows: int, cols: int, agents_block: bool) -> Array:
    """[N, 6] bool: NONE always; a move if its cell is on the board and free of food; LOAD if food is beside the agent.

    Args:
      row: [N] integers. col: [N] integers.
      food: ([F] rows, [F] columns, [F] levels).
      rows: rows of the board. cols: its columns.
      agents_block: whether a move into a cell with another agent is illegal too (Jumanji; not in lbforaging).
    """
    food_row, food_col, food_level = food
    there = (food_level > 0)[None]
    north, south, west, east = _beside(row, col, food_row, food_col, there)
    moves = [row > 0, row < rows - 1, col > 0, col < cols - 1]
    moves = [inside & ~taken for inside, taken in zip(moves, (north, south, west, east), strict=True)]
    if agents_block:
        taken = _beside(row, col, row, col, jnp.bool_(True))
        moves = [free & ~agent for free, agent in zip(moves, taken, strict=True)]
    return jnp.stack([jnp.ones_like(north), *moves, north | south | west | east], axis=1)


def _beside(row: Array, col: Array, other_row: Array, other_col: Array, there: Array) -> tuple[Array, ...]:
    """Four [N] bools: is anything of `there` north, south, west, east of the agent?"""
    down, right = other_row[None] - row[:, None], other_col[None] - col[:, None]
    # One bit for each side, so that the pairs are gone through once and not four times.
    vertical = jnp.where(down == -1, 1, jnp.where(down == 1, 2, 0))
    horizontal = jnp.where(right == -1, 4, jnp.where(right == 1, 8, 0))
    side = jnp.where((right == 0) & there, vertical, jnp.where((down == 0) & there, horizontal, 0)).astype(jnp.int8)
    found = jnp.bitwise_or.reduce(side, axis=1)
    return tuple((found & np.int8(bit)) != 0 for bit in (1, 2, 4, 8))
