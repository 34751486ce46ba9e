"""Picture of a grid world: coloured cells, round things, avatars as arrowheads, beams."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from marl_bench.envs import raster

CELL = 16
"""Pixels on the side of a cell."""

FLOOR, WALL = raster.FLOOR, raster.WALL
_BEAMS = {"zap": raster.YELLOW}
_OTHER_BEAM = (120, 220, 255)


class Picture(NamedTuple):
    """What lies below avatars and beams.

    Attributes:
      board: [H, W] integers, colour of each cell.
      colours: the colours.
      things: (cells [H, W] bool, colour) of round things.
    """

    board: np.ndarray
    colours: tuple[raster.Colour, ...]
    things: tuple[tuple[np.ndarray, raster.Colour], ...] = ()


def lit_cells(board: np.ndarray, width: int) -> np.ndarray:
    """[H, W] bool of a bit board [H, ceil(W / 32)] (see `boards.paint`)."""
    bits = (np.asarray(board)[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    return bits.reshape(board.shape[0], -1)[:, :width].astype(bool)


def render(state: Any, picture: Picture, beams: list[str]) -> np.ndarray:
    """uint8 [CELL (H + 2), CELL (W + 2), 3] picture of a state."""
    width = picture.board.shape[1]
    colours = (*picture.colours, raster.WALL)
    board = np.pad(np.asarray(picture.board), 1, constant_values=len(picture.colours))
    canvas = raster.tiles(board, colours, CELL)
    for mask, colour in picture.things:
        for row, column in zip(*np.nonzero(np.asarray(mask)), strict=True):
            raster.disc(canvas, *_centre(row, column), 0.3 * CELL, colour)
    for name, lit in zip(beams, np.asarray(state.lit), strict=True):
        for row, column in zip(*np.nonzero(lit_cells(lit, width)), strict=True):
            raster.rectangle(
                canvas, CELL * (row + 1), CELL * (column + 1), CELL, CELL, _BEAMS.get(name, _OTHER_BEAM), 0.6
            )
    avatars = state.avatars
    for agent in np.flatnonzero(np.asarray(avatars.away) == 0):
        centre = _centre(int(avatars.row[agent]), int(avatars.col[agent]))
        if int(avatars.frozen[agent]) > 0:
            raster.disc(canvas, *centre, 0.5 * CELL, raster.WHITE)
        raster.triangle(canvas, *centre, 0.5 * CELL, int(avatars.heading[agent]), raster.agent_colour(int(agent)))
    return canvas


def _centre(row: int, column: int) -> tuple[float, float]:
    return CELL * (row + 1.5), CELL * (column + 1.5)
