"""Scripted policies of level-based foraging: teams that plan together, and the four heuristics of `lbforaging`.

Speed is no concern here (teams sort, paths are found by relaxation); play is.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.foraging import rules

Array = jax.Array

HEURISTICS = {"h1": ("self", "any"), "h2": ("centre", "any"), "h3": ("self", "own"), "h4": ("centre", "visible")}
"""Name -> (from where the nearest food is taken, highest level of the food), as in `lbforaging.agents.heuristic_agent`."""

_FAR = 10_000
_SLOTS = 4
_AROUND = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""Cells beside a cell, in the order of the actions NORTH, SOUTH, WEST, EAST."""

_WAITING, _PASSING = 20, 3
"""What it costs to plan through a cell with an agent that stays, or that may go on."""


def _random_legal(key: Array, mask: Array) -> Array:
    """[N] int32 legal actions, uniform; `mask` is [N, 6]."""
    return jnp.argmax(jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0), axis=1).astype(jnp.int32)


# --- heuristics of lbforaging ------------------------------------------------------------------------------


def heuristic(origin: str, limit: str, sight: int) -> ScriptedPolicy:
    """Go straight to the nearest food that is seen, and LOAD beside it, whatever the others do.

    Along rows first, then east before west, each only if legal; a random legal action where no food fits or no such move is
    left. Distances are Euclidean; of equally near food the first of the list is taken.

    Args:
      origin: "self", or "centre": the rounded mean position of all agents that are seen.
      limit: highest level of the food: "any", "own", or "visible", the sum of the levels of all agents that are seen.
      sight: cells that an agent sees (as it sees food, for agents too).
    """

    def policy(state: Any, observation: Any, key: Array) -> Array:
        row, col, level, food_row, food_col, food_level = _wide(state)
        near = (jnp.abs(row[:, None] - row) <= sight) & (jnp.abs(col[:, None] - col) <= sight)
        from_row, from_col = row.astype(jnp.float32), col.astype(jnp.float32)
        if origin == "centre":
            seen = jnp.sum(near, axis=1)
            from_row, from_col = (jnp.round(jnp.sum(near * x, axis=1) / seen) for x in (row, col))
        most = {"any": jnp.full_like(level, _FAR), "own": level, "visible": jnp.sum(near * level, axis=1)}[limit]
        fits = (jnp.abs(row[:, None] - food_row) <= sight) & (jnp.abs(col[:, None] - food_col) <= sight)
        fits = fits & (food_level > 0) & (food_level <= most[:, None])
        away = (from_row[:, None] - food_row) ** 2 + (from_col[:, None] - food_col) ** 2
        target = jnp.argmin(jnp.where(fits, away, jnp.inf), axis=1)
        down, right = food_row[target] - row, food_col[target] - col
        mask = observation.action_mask
        action = _random_legal(key, mask)
        for wanted, direction in ((right < 0, 3), (right > 0, 4), (down > 0, 2), (down < 0, 1)):
            action = jnp.where(wanted & mask[:, direction], direction, action)
        action = jnp.where(jnp.abs(down) + jnp.abs(right) == 1, rules.LOAD, action)
        return jnp.where(jnp.any(fits, axis=1), action, _random_legal(key, mask)).astype(jnp.int32)

    return policy


def _wide(state: Any) -> tuple[Array, ...]:
    """Rows, columns and levels of agents and of food as int32."""
    return tuple(jnp.asarray(x, jnp.int32) for x in (state.row, state.col, state.level, *state.foods))


# --- teams -------------------------------------------------------------------------------------------------


def coordinate(rows: int, cols: int) -> ScriptedPolicy:
    """Teams go to the food that they can reach and load soonest, wait for each other beside it, and load together.

    A central planner that sees the whole state: it repeats, until no food or no agent is left, to pick the food whose team
    is complete first. Every member has its own cell beside the food; paths go around food and around agents that wait.

    Args:
      rows: rows of the board. cols: its columns.
    """

    def policy(state: Any, observation: Any, key: Array) -> Array:
        row, col, level, food_row, food_col, food_level = _wide(state)
        target = _teams(row, col, level, food_row, food_col, food_level)
        goal_row, goal_col = _cells_beside(row, col, target, food_row, food_col, food_level)
        there = (row == goal_row) & (col == goal_col) & (target >= 0)
        late = jnp.any((target[:, None] == target) & ~there, axis=1)
        costs = _costs(row, col, there | (target < 0), food_row, food_col, food_level, rows, cols)
        moves = _next_moves(row, col, goal_row, goal_col, costs)
        # Of several that head for one cell the first goes, the others wait.
        to_row, to_col = rules.intended(row, col, jnp.where(there | (target < 0), rules.NONE, moves))
        same = (to_row[:, None] == to_row) & (to_col[:, None] == to_col)
        yields = jnp.any(same & np.tri(row.shape[0], k=-1, dtype=bool), axis=1)
        # In front of an agent, a random step now and then ends what could go on for ever.
        met = jnp.any((to_row[:, None] == row) & (to_col[:, None] == col) & ~np.eye(row.shape[0], dtype=bool), axis=1)
        key_stray, key_action = jax.random.split(key)
        stray = met & jax.random.bernoulli(key_stray, 0.3, met.shape)
        moves = jnp.where(stray, _random_legal(key_action, observation.action_mask), jnp.where(yields, 0, moves))
        moves = jnp.where(there, jnp.where(late, rules.NONE, rules.LOAD), moves)
        return jnp.where(target < 0, rules.NONE, moves).astype(jnp.int32)

    return policy


def _teams(row: Array, col: Array, level: Array, food_row: Array, food_col: Array, food_level: Array) -> Array:
    """[N] int32 food of each agent, -1 for none."""
    count = row.shape[0]
    away = jnp.abs(row[:, None] - food_row) + jnp.abs(col[:, None] - food_col)

    def team(free: Array, priority: Array) -> tuple[Array, Array]:
        """Smallest team of each food, taken in order of priority: [N, F] members, [F] steps until it is complete."""
        order = jnp.argsort(jnp.where(free[:, None], priority, _FAR), axis=0)
        rank = jnp.argsort(order, axis=0)
        strength = jnp.cumsum(jnp.where(free, level, 0)[order], axis=0)
        enough = strength >= food_level
        member = free[:, None] & (rank <= jnp.argmax(enough, axis=0))
        possible = jnp.any(enough[:_SLOTS], axis=0)
        return member, jnp.where(possible, jnp.max(jnp.where(member, away, 0), axis=0), _FAR)

    def choose(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        free, left, target = carry
        nearest, soon = team(free, away)
        strongest, late = team(free, jnp.broadcast_to(-level[:, None], away.shape))
        member = jnp.where(soon < _FAR, nearest, strongest)
        cost = jnp.where(left, jnp.where(soon < _FAR, soon, late), _FAR)
        food = jnp.argmin(cost)
        joins = member[:, food] & (cost[food] < _FAR)
        left = left & (jnp.arange(left.shape[0]) != food)
        return (free & ~joins, left, jnp.where(joins, food, target)), None

    start = jnp.ones(count, bool), food_level > 0, jnp.full(count, -1)
    return jax.lax.scan(choose, start, None, length=food_row.shape[0])[0][2]


def _cells_beside(
    row: Array, col: Array, target: Array, food_row: Array, food_col: Array, food_level: Array
) -> tuple[Array, Array]:
    """[N] row and [N] column of the cell beside its food that each agent goes to; agents nearest to theirs choose first."""
    away = jnp.abs(row - food_row[target]) + jnp.abs(col - food_col[target])
    idle = target < 0

    def choose(carry: tuple[Array, Array], agent: Array) -> tuple[tuple[Array, Array], None]:
        goal_row, goal_col = carry
        at_row, at_col = food_row[target[agent]] + _AROUND[:, 0], food_col[target[agent]] + _AROUND[:, 1]
        taken = (at_row[:, None] == goal_row) & (at_col[:, None] == goal_col)
        stands = (at_row[:, None] == row) & (at_col[:, None] == col) & idle
        covered = (at_row[:, None] == food_row) & (at_col[:, None] == food_col) & (food_level > 0)
        bad = jnp.any(taken, axis=1) | jnp.any(stands, axis=1) | jnp.any(covered, axis=1)
        slot = jnp.argmin(jnp.abs(at_row - row[agent]) + jnp.abs(at_col - col[agent]) + jnp.where(bad, _FAR, 0))
        place = idle[agent]
        goal_row = goal_row.at[agent].set(jnp.where(place, row[agent], at_row[slot]))
        goal_col = goal_col.at[agent].set(jnp.where(place, col[agent], at_col[slot]))
        return (goal_row, goal_col), None

    nowhere = jnp.full_like(row, -1)
    return jax.lax.scan(choose, (nowhere, nowhere), jnp.argsort(jnp.where(idle, -1, away)))[0]


def _costs(
    row: Array, col: Array, stays: Array, food_row: Array, food_col: Array, food_level: Array, rows: int, cols: int
) -> Array:
    """[N, rows + 2, cols + 2] cost of entering each cell of the board with a frame around it, for each agent."""
    high, wide = np.arange(-1, rows + 1)[:, None], np.arange(-1, cols + 1)
    outside = (high < 0) | (high >= rows) | (wide < 0) | (wide >= cols)
    food = (high == food_row[:, None, None]) & (wide == food_col[:, None, None]) & (food_level > 0)[:, None, None]
    agent = (high == row[:, None, None]) & (wide == col[:, None, None])
    extra = agent * jnp.where(stays, _WAITING, _PASSING)[:, None, None]
    others = jnp.sum(extra, axis=0)[None] - extra
    return jnp.where(outside | jnp.any(food, axis=0), _FAR, 1 + others)


def _next_moves(row: Array, col: Array, goal_row: Array, goal_col: Array, costs: Array) -> Array:
    """[N] int32 first moves of cheapest paths to the goals; `costs` as `_costs` gives them."""
    count, height, width = costs.shape
    high, wide = np.arange(height)[:, None] - 1, np.arange(width) - 1
    at_goal = (high == goal_row[:, None, None]) & (wide == goal_col[:, None, None])

    def relax(_: int, distance: Array) -> Array:
        through = distance + costs
        best = [jnp.roll(through, shift, axis) for axis in (1, 2) for shift in (1, -1)]
        return jnp.minimum(distance, jnp.stack(best).min(axis=0))

    start = jnp.where(at_goal, 0, _FAR)
    # A path on an open board is at most height + width long; what is longer goes around food and agents.
    distance = jax.lax.fori_loop(0, 2 * (height + width), relax, start)
    through = distance + costs
    agents = np.arange(count)[:, None]
    beside = through[agents, row[:, None] + 1 + _AROUND[:, 0], col[:, None] + 1 + _AROUND[:, 1]]
    return jnp.argmin(beside, axis=1).astype(jnp.int32) + 1
