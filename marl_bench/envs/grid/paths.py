"""Ways through a map with walls, for scripted policies: distances, made once on the host, and the next action.

Cells are numbered row by row. Headings and actions are those of the grid engine: 0 north, 1 east, 2 south, 3 west, and
moves are relative to the heading.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

FAR = 1000
"""Distance of what cannot be reached."""

NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT = range(7)

_ROWS, _COLS = np.array([-1, 0, 1, 0]), np.array([0, 1, 0, -1])
_MOVES = np.array([FORWARD, STEP_RIGHT, BACKWARD, STEP_LEFT])
"""Action that moves in the direction heading + k, k = 0 ... 3."""


def distances(wall: np.ndarray) -> np.ndarray:
    """[R C, R C] int16 steps on a shortest way between cells; `FAR` where there is none or a cell is a wall.

    Args:
      wall: [R, C] bool.
    """
    wall = np.ascontiguousarray(wall, bool)
    return _distances(wall.tobytes(), *wall.shape)


@functools.lru_cache(maxsize=32)
def _distances(wall_bytes: bytes, rows: int, cols: int) -> np.ndarray:
    wall = np.frombuffer(wall_bytes, bool).reshape(rows, cols)
    size = rows * cols
    result = np.full((size, size), FAR, np.int16)
    reached = np.eye(size, dtype=bool).reshape(size, rows, cols) & ~wall.reshape(-1)[:, None, None]
    step = 0
    new = reached.copy()
    while new.any():
        result.reshape(size, rows, cols)[new] = step
        padded = np.pad(new, ((0, 0), (1, 1), (1, 1)))
        spread = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
        new = spread & ~reached & ~wall
        reached |= new
        step += 1
    result.flags.writeable = False
    return result


def towards(
    row: Array,
    col: Array,
    heading: Array,
    goal: Array,
    table: np.ndarray,
    wall: np.ndarray,
    noise: Array,
    avoid: Array | None = None,
) -> Array:
    """[N] int32 move of a shortest way to each agent's goal, around other avatars; NOOP on the goal.

    Args:
      row, col, heading: [N] integers.
      goal: [N] integers, cell numbers.
      table: [R C, R C] see `distances`. wall: [R, C] bool.
      noise: [N, 4] float32 in [0, 1), breaks ties, so that two agents do not stand in each other's way for ever.
      avoid: [R C] bool, cells that are worth a detour of a few steps (but for the goal itself); None for none.
    """
    rows, cols = wall.shape
    row, col = row.astype(jnp.int32), col.astype(jnp.int32)
    next_row, next_col = row[:, None] + _ROWS, col[:, None] + _COLS
    inside = (next_row >= 0) & (next_row < rows) & (next_col >= 0) & (next_col < cols)
    cell = jnp.clip(next_row, 0, rows - 1) * cols + jnp.clip(next_col, 0, cols - 1)
    steps = jnp.asarray(table)[cell, goal[:, None]].astype(jnp.float32)
    taken = jnp.any((next_row[:, :, None] == row) & (next_col[:, :, None] == col), axis=2)
    cost = jnp.where(inside, steps, FAR) + jnp.where(taken, 3.0, 0.0) + noise
    if avoid is not None:
        cost = cost + jnp.where(avoid[cell] & (cell != goal[:, None]), 3.0, 0.0)
    direction = jnp.argmin(cost, axis=1)
    move = jnp.asarray(_MOVES)[(direction - heading) % 4]
    return jnp.where(row * cols + col == goal, NOOP, move).astype(jnp.int32)


def relative(row: Array, col: Array, heading: Array, goal_row: Array, goal_col: Array) -> tuple[Array, Array]:
    """(ahead, right): position of a goal in the frame of an agent, int32; arguments broadcast."""
    down, right = goal_row.astype(jnp.int32) - row, goal_col.astype(jnp.int32) - col
    facing = [heading == k for k in range(4)]
    ahead = jnp.select(facing, [-down, right, down, -right])
    aside = jnp.select(facing, [right, down, -right, -down])
    return ahead, aside


def turn(aside: Array) -> Array:
    """int32 turn towards a goal that lies `aside` cells to the right: left if that is negative, else right."""
    return jnp.where(aside < 0, TURN_LEFT, TURN_RIGHT).astype(jnp.int32)
