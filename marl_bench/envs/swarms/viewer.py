"""Pictures of swarms."""

from __future__ import annotations

import numpy as np

from marl_bench.envs import raster

SIDE = 320
"""Pixels on a side of the picture."""

_MARGIN = 10


def dots(position: np.ndarray, half_side: float) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]: agents in [-B, B]^D seen along the first two axes, and their mean as a cross.

    Args:
      position: [D, N]; with D = 1 the second coordinate is 0.
      half_side: B.
    """
    picture = raster.canvas(SIDE, SIDE)
    inner = SIDE - 2 * _MARGIN
    raster.frame(picture, _MARGIN, _MARGIN, inner, inner, raster.LINE, 1)
    flat = np.zeros((2, position.shape[1]))
    flat[: min(2, len(position))] = position[:2]
    columns, rows = (SIDE / 2 + sign * axis * inner / (2 * half_side) for sign, axis in zip((1, -1), flat, strict=True))
    radius = 4.0 if position.shape[1] <= 200 else 2.0
    for row, column in zip(rows, columns, strict=True):
        raster.disc(picture, row, column, radius, raster.BLUE, 0.6)
    row, column = rows.mean(), columns.mean()
    raster.line(picture, (row - 6, column), (row + 6, column), raster.RED, 2)
    raster.line(picture, (row, column - 6), (row, column + 6), raster.RED, 2)
    return picture
