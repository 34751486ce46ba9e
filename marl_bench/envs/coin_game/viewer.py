"""Picture of the coin game: coins are discs, agents are frames (agent 0 red, agent 1 blue)."""

from __future__ import annotations

from typing import Any

import numpy as np

CELL = 32
"""Pixels on the side of a cell."""

COLOURS = ((214, 39, 40), (31, 119, 180))
"""Red of agent 0 and its coin, blue of agent 1 and its coin."""

_FLOOR = (238, 238, 238)
_LINE = (190, 190, 190)
_OFFSETS = ((3, 3), (7, 7))
"""Where each agent's frame starts in its cell, so that two agents on one cell both show."""
_FRAME, _SIDE = 3, 22
_RADIUS = 6


def render(state: Any, size: int) -> np.ndarray:
    """uint8 [size * CELL, size * CELL, 3] picture of a state."""
    picture = np.full((size * CELL, size * CELL, 3), _FLOOR, np.uint8)
    picture[::CELL], picture[:, ::CELL] = _LINE, _LINE
    y, x = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
    # Python's integers: a row of int8 times the size of a cell would overflow.
    coins = zip(
        *(np.asarray(part).tolist() for part in (state.coin_row, state.coin_col, state.coin_owner)), strict=True
    )
    for row, col, owner in coins:
        # Coins of both colours on one cell: each moves a little towards its agent's side.
        shift = 4 if owner else -4
        cell = picture[row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL]
        cell[(y - shift) ** 2 + (x - shift) ** 2 <= _RADIUS**2] = COLOURS[owner]
    for agent, (row, col) in enumerate(
        zip(np.asarray(state.row).tolist(), np.asarray(state.col).tolist(), strict=True)
    ):
        top, left = row * CELL + _OFFSETS[agent][0], col * CELL + _OFFSETS[agent][1]
        box = picture[top : top + _SIDE, left : left + _SIDE]
        inside = box[_FRAME:-_FRAME, _FRAME:-_FRAME].copy()
        box[:] = COLOURS[agent]
        box[_FRAME:-_FRAME, _FRAME:-_FRAME] = inside
    return picture
