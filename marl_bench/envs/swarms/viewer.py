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


def arrows(x: np.ndarray, y: np.ndarray, heading: np.ndarray, side: float) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]: agents in the chart [0, L]^2 as short lines along their headings, coloured by direction.

    Args:
      x, y: [N] lengths. heading: [N] radians. side: L.
    """
    picture = raster.canvas(SIDE, SIDE)
    inner = SIDE - 2 * _MARGIN
    raster.frame(picture, _MARGIN, _MARGIN, inner, inner, raster.LINE, 1)
    columns, rows = _MARGIN + x / side * inner, SIDE - _MARGIN - y / side * inner
    reach = 7.0 if len(x) <= 300 else 3.0
    for row, column, angle in zip(rows, columns, heading, strict=True):
        colour = direction_colour(angle)
        tip = (row - reach * np.sin(angle), column + reach * np.cos(angle))
        raster.line(picture, (row, column), tip, colour, 2)
        raster.disc(picture, row, column, 2.5, colour, 1.0)
    return picture


def direction_colour(angle: float) -> tuple[int, int, int]:
    """A colour of the wheel: equal directions look equal, opposite ones most different."""
    shifted = angle + np.array([0.0, -2 * np.pi / 3, 2 * np.pi / 3])
    red, green, blue = (110 + 100 * np.cos(shifted)).astype(int)
    return int(red), int(green), int(blue)
