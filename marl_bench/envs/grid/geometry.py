"""Maps, windows and beams of the grid worlds as NumPy tables; nothing here touches a device.

Cells are (row, column) from 0 inside the wall; outside is wall. A flat cell number is `row * W + col`, and H * W stands for
"outside". Lookups at an avatar's surroundings use padded numbers, `(row + PAD) * (W + 2 PAD) + col + PAD`, so that an
offset is one addition and nothing leaves the table. Spec: social dilemmas, sections 1.1, 1.4 and 1.6.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

HEADINGS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""(row, column) step of headings 0 north, 1 east, 2 south, 3 west; +1 turns right."""

PAD = 9
"""Cells around a map that windows and beams may reach."""

Cells = Iterable[tuple[int, int]]


def block(rows: int | tuple[int, int], columns: int | tuple[int, int]) -> list[tuple[int, int]]:
    """Cells of a rectangle; `rows` and `columns` are a number or (first, last), both included."""
    top, bottom = (rows, rows) if isinstance(rows, int) else rows
    left, right = (columns, columns) if isinstance(columns, int) else columns
    return [(row, column) for row in range(top, bottom + 1) for column in range(left, right + 1)]


def mask(height: int, width: int, cells: Cells) -> np.ndarray:
    """[H, W] bool, True at `cells`.

    Raises:
      ValueError: for a cell outside.
    """
    board = np.zeros((height, width), bool)
    for row, column in cells:
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"cell {(row, column)}: outside the map of {height} x {width} cells")
        board[row, column] = True
    return board


@dataclasses.dataclass(frozen=True, eq=False)
class Terrain:
    """What never changes on a map.

    Attributes:
      wall: [H, W] bool, cells that nobody enters and no beam passes.
      spawns: [S] int32, flat numbers of the cells on which avatars (re)appear.
      starts: [K] int32, flat numbers of the cells where avatars 0 ... K - 1 start; the others start on `spawns`.
      torus: whether opposite edges touch; then there is no outside.
    """

    wall: np.ndarray
    spawns: np.ndarray
    starts: np.ndarray
    torus: bool = False

    @property
    def height(self) -> int:
        """H."""
        return self.wall.shape[0]

    @property
    def width(self) -> int:
        """W."""
        return self.wall.shape[1]

    @property
    def size(self) -> int:
        """H * W, which is also the flat number that stands for outside."""
        return self.wall.size

    @property
    def stride(self) -> int:
        """Columns of the padded map."""
        return self.width + 2 * PAD

    @functools.cached_property
    def home(self) -> np.ndarray:
        """[(H + 2 PAD)(W + 2 PAD)] int32: flat number of a padded cell; H * W outside."""
        rows, columns = np.arange(-PAD, self.height + PAD)[:, None], np.arange(-PAD, self.width + PAD)[None]
        flat = (rows % self.height) * self.width + columns % self.width
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        return np.where(inside | self.torus, flat, self.size).astype(np.int32).reshape(-1)

    @functools.cached_property
    def padded_wall(self) -> np.ndarray:
        """[(H + 2 PAD)(W + 2 PAD)] bool, wall by padded number; True outside."""
        return np.append(self.wall.reshape(-1), True)[self.home]


def terrain(
    height: int, width: int, walls: Cells = (), spawns: Cells = (), starts: Cells = (), torus: bool = False
) -> Terrain:
    """Make a map from lists of cells; without `spawns` every cell that is no wall is one.

    Raises:
      ValueError: for a cell outside, or a spawn cell in a wall.
    """
    wall = mask(height, width, walls)
    floor = ~wall if not list(spawns) else mask(height, width, spawns)
    first = list(starts)
    if (floor & wall).any() or any(wall[cell] for cell in first):
        raise ValueError("a spawn cell lies in a wall")
    cells = np.array([row * width + column for row, column in first], np.int32)
    return Terrain(wall, np.flatnonzero(floor).astype(np.int32), cells, torus)


class Window(NamedTuple):
    """Cells that an avatar sees, in its own frame: rows ahead and behind, columns to the left and right."""

    ahead: int = 9
    behind: int = 1
    left: int = 5
    right: int = 5

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns); the avatar stands at (ahead, left) and looks towards row 0."""
        return self.ahead + self.behind + 1, self.left + self.right + 1

    @property
    def own(self) -> int:
        """Flat number of the avatar's own cell in the window."""
        return self.ahead * self.shape[1] + self.left

    def offsets(self, stride: int) -> np.ndarray:
        """[4, cells] int32 offsets of the window's cells in padded numbers, by heading."""
        forward, sideways = np.mgrid[self.ahead : -self.behind - 1 : -1, -self.left : self.right + 1]
        return _offsets(forward.reshape(-1), sideways.reshape(-1), stride)


class Footprint(NamedTuple):
    """Cells of a beam in the shooter's frame, column by column (spec section 1.4).

    Attributes:
      forward: [K] int32. sideways: [K] int32, positive to the right.
      before: [K] uint32, bit j set if cell j must not block for the beam to reach this cell.
    """

    forward: np.ndarray
    sideways: np.ndarray
    before: np.ndarray

    def offsets(self, stride: int) -> np.ndarray:
        """[4, K] int32 offsets in padded numbers, by heading."""
        return _offsets(self.forward, self.sideways, stride)


def _offsets(forward: np.ndarray, sideways: np.ndarray, stride: int) -> np.ndarray:
    tables = []
    for heading, (row, column) in enumerate(HEADINGS):
        right_row, right_column = HEADINGS[(heading + 1) % 4]
        tables.append(
            (forward * row + sideways * right_row) * stride + forward * column + sideways * right_column,
        )
    return np.array(tables, np.int32)


@functools.lru_cache(maxsize=64)
def footprint(length: int, radius: int) -> Footprint:
    """The beam of a length and a radius: `length` cells ahead, and on each side r = 1 ... radius a column that starts beside
    the shooter and ends r cells short of the middle one.

    A column stops at its first blocking cell, which is still hit; a side column whose first cell blocks stops those
    further out as well.

    Raises:
      ValueError: if a window of `PAD` cells, or a word of 32 bits, cannot hold it.
    """
    columns = [[(f, 0) for f in range(1, length + 1)]]
    for side in (-1, 1):
        columns += [[(f, side * r) for f in range(length - r + 1)] for r in range(1, radius + 1)]
    cells = [cell for column in columns for cell in column]
    if length < 1 or length > PAD or not 0 <= radius <= length or len(cells) > 32:
        raise ValueError(
            f"beam of length {length} and radius {radius}: needs 1 to 32 cells within {PAD} of the shooter"
        )
    number = {cell: index for index, cell in enumerate(cells)}
    before = np.zeros(len(cells), np.uint32)
    for column in columns:
        for place, (forward, sideways) in enumerate(column):
            blockers = column[:place]
            side = int(np.sign(sideways))
            blockers = blockers + [(0, side * r) for r in range(1, abs(sideways))]
            before[number[forward, sideways]] = sum(1 << number[cell] for cell in blockers)
    forward, sideways = np.array(cells, np.int32).T
    return Footprint(forward, sideways, before)
