"""Maps of territory: where the resource walls, plain walls and spawn cells are (Melting Pot 2, `territory`)."""

from __future__ import annotations

import functools

import numpy as np

MAPS = ("open", "rooms")

_OPEN_SHAPE = (21, 37)
_OPEN_RESOURCES = (
    (0, 0, 2, 6), (0, 0, 9, 10), (0, 4, 13, 14), (0, 1, 21, 22), (0, 0, 29, 30), (1, 8, 5, 6), (3, 3, 1, 2), (3, 7, 25, 25),
    (3, 4, 29, 30), (3, 3, 34, 35), (5, 5, 17, 20), (6, 6, 2, 3), (7, 7, 14, 15), (8, 8, 7, 8), (8, 8, 30, 31),
    (9, 9, 20, 21), (11, 11, 2, 5), (11, 11, 9, 14), (11, 11, 26, 27), (11, 12, 32, 32), (13, 13, 16, 17), (14, 14, 4, 5),
    (14, 14, 22, 23), (15, 15, 9, 10),
)  # fmt: skip
"""First row, last row, first column, last column of each block."""
_OPEN_SPAWNS = (
    (13, 34), (14, 31), (15, 32), (15, 35), (16, 27), (16, 30), (17, 29), (17, 33), (18, 2), (18, 7), (18, 11), (18, 14),
    (18, 18), (18, 23), (18, 25), (18, 28), (18, 31), (18, 34),
)  # fmt: skip

_ROOM, _ROOMS = 7, 3
"""Cells on a side of a room; rooms on a side of the torus."""


@functools.lru_cache(maxsize=4)
def layout(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(resource, wall, spawn), each [R, C] bool, of a map.

    "open" is bounded (whoever uses it adds the border), "rooms" is a torus without one.
    """
    resource, wall, spawn = _open() if name == "open" else _rooms()
    for grid in (resource, wall, spawn):
        grid.flags.writeable = False
    return resource, wall, spawn


def _open() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    resource, wall, spawn = (np.zeros(_OPEN_SHAPE, bool) for _ in range(3))
    for top, bottom, left, right in _OPEN_RESOURCES:
        resource[top : bottom + 1, left : right + 1] = True
    rows, cols = np.array(_OPEN_SPAWNS).T
    spawn[rows, cols] = True
    return resource, wall, spawn


def _rooms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    room = np.ones((_ROOM, _ROOM), bool)
    room[1:-1, 1:-1] = False
    corner = np.zeros((_ROOM, _ROOM), bool)
    corner[np.ix_([0, -1], [0, -1])] = True
    middle = np.zeros((_ROOM, _ROOM), bool)
    middle[_ROOM // 2, _ROOM // 2] = True
    return tuple(np.tile(grid, (_ROOMS, _ROOMS)) for grid in (room & ~corner, corner, middle))  # pyright: ignore[reportReturnType]
