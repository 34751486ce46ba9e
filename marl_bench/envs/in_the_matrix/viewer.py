"""Picture of a game in the matrix: resources are discs in the colours of their types."""

from __future__ import annotations

from typing import Any

import numpy as np

from marl_bench.envs import raster
from marl_bench.envs.grid.viewer import FLOOR, WALL, Picture

COLOURS = (raster.GREEN, raster.RED, raster.BLUE)
"""Of types 0, 1 and 2."""


def picture(resources: Any, where: Any, types: int) -> Picture:
    """What lies below the avatars. `resources`: of the state; `where`: the `Map`."""
    wall = where.terrain.wall
    present, kind = np.asarray(resources.health) > 0, np.asarray(resources.kind)
    things = []
    for number in range(types):
        board = np.zeros(wall.size, bool)
        board[where.cells[present & (kind == number)]] = True
        things.append((board.reshape(wall.shape), COLOURS[number]))
    return Picture(wall.astype(np.int8), (FLOOR, WALL), tuple(things))
