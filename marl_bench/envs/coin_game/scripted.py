"""Scripted policies of the coin game: collect own coins only, or the nearest coin."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.envs.coin_game import rules

Array = jax.Array


def _ahead(start: Array, goal: Array, size: int) -> Array:
    """Cells from `start` up to `goal` in the positive direction of the torus, 0 ... size - 1."""
    return rules.wrap(goal - start, size)


def distance(row: Array, col: Array, goal_row: Array, goal_col: Array, size: int) -> Array:
    """Steps between cells on the torus; arguments broadcast."""
    down, right = _ahead(row, goal_row, size), _ahead(col, goal_col, size)
    return jnp.minimum(down, size - down) + jnp.minimum(right, size - right)


def towards(row: Array, col: Array, goal_row: Array, goal_col: Array, size: int) -> Array:
    """int32 action of a shortest way to the goal, rows before columns; on the goal: stay (action 4)."""
    down, right = _ahead(row, goal_row, size), _ahead(col, goal_col, size)
    along_row = jnp.where(right == 0, 4, jnp.where(right <= size // 2, 0, 1))
    return jnp.where(down == 0, along_row, jnp.where(down <= size // 2, 2, 3)).astype(jnp.int32)


def own_coin(state: Any, size: int) -> Array:
    """[2] actions that go for the coin of the own colour and leave the other one alone.

    With a single coin of the other's colour: go right, or down where the coin lies to the right.
    """
    if state.coin_row.shape[0] == 2:
        return towards(state.row, state.col, state.coin_row, state.coin_col, size)
    mine = state.coin_owner == jnp.arange(2)
    lies_right = (state.row == state.coin_row) & (_ahead(state.col, state.coin_col, size) == 1)
    go = towards(state.row, state.col, state.coin_row, state.coin_col, size)
    return jnp.where(mine, go, jnp.where(lies_right, 2, 0)).astype(jnp.int32)


def nearest_coin(state: Any, size: int, prefer: Array) -> Array:
    """[2] actions that go for the nearest coin of either colour.

    Args:
      state: state of the game. size: cells on a side.
      prefer: [2] coin that wins a tie, for each agent.
    """
    if state.coin_row.shape[0] == 1:
        return towards(state.row, state.col, state.coin_row, state.coin_col, size)
    away = distance(state.row[:, None], state.col[:, None], state.coin_row, state.coin_col, size)
    first = jnp.where(prefer == 0, away[:, 0] <= away[:, 1], away[:, 0] < away[:, 1])
    goal_row = jnp.where(first, state.coin_row[0], state.coin_row[1])
    goal_col = jnp.where(first, state.coin_col[0], state.coin_col[1])
    return towards(state.row, state.col, goal_row, goal_col, size)
