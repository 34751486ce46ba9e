"""Picture of level-based foraging: discs are agents, squares are food, the numbers on them are their levels."""

from __future__ import annotations

from typing import Any

import numpy as np

from marl_bench.envs import raster

CELL = 32
"""Pixels on the side of a cell."""

FOOD = raster.GREEN


def render(state: Any, rows: int, cols: int) -> np.ndarray:
    """uint8 [rows * CELL, cols * CELL, 3] picture of a state. Agents that share a cell are drawn smaller, one on the other."""
    picture = raster.tiles(np.zeros((rows, cols), int), [raster.FLOOR], CELL)
    # Python's integers: a row of int8 times the size of a cell would overflow.
    foods = zip(
        *(np.asarray(part).tolist() for part in (state.food_row, state.food_col, state.food_level)), strict=True
    )
    for row, col, level in foods:
        if level > 0:
            raster.rectangle(picture, row * CELL + 5, col * CELL + 5, CELL - 9, CELL - 9, FOOD)
            _number(picture, level, row, col)
    below: dict[tuple[int, int], int] = {}
    agents = zip(*(np.asarray(part).tolist() for part in (state.row, state.col, state.level)), strict=True)
    for agent, (row, col, level) in enumerate(agents):
        depth = below.get((row, col), 0)
        below[row, col] = depth + 1
        radius = max(13 - 3 * depth, 4)
        raster.disc(picture, (row + 0.5) * CELL + 0.5, (col + 0.5) * CELL + 0.5, radius, raster.agent_colour(agent))
        _number(picture, level, row, col)
    return picture


def _number(picture: np.ndarray, level: Any, row: Any, col: Any) -> None:
    raster.text(picture, str(int(level)), (row + 0.5) * CELL, (col + 0.5) * CELL, raster.WHITE, centred=True)
