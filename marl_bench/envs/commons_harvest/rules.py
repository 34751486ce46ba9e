"""Maps and rates of commons harvest (spec: social dilemmas, section 2.3; Melting Pot 2, `commons_harvest__*`)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid.geometry import Terrain, block, mask, terrain

Array = jax.Array

HEIGHT, WIDTH = 16, 22
LAYOUTS = ("open", "closed", "partnership")

_CENTRES = ((0, 0), (0, 21), (2, 7), (2, 14), (7, 2), (7, 19))
_RADIUS = 2

_SPAWNS = [*block(13, (2, 19)), *block(14, (1, 20)), *block(15, (0, 21))]
_STARTS = [(6, 6), (6, 15)]
_CLOSED = [
    *block((0, 12), (10, 11)),
    *block(8, (6, 15)),
    *((10, column) for column in range(WIDTH) if column not in (9, 12)),
    *block(12, (2, 19)),
]
_WALLS = {
    "open": [],
    "closed": _CLOSED,
    "partnership": [cell for cell in _CLOSED if not (cell[1] in (10, 11) and (cell[0] <= 5 or cell[0] == 7))],
}


def _near(row: int, column: int, centre: tuple[int, int]) -> bool:
    return abs(row - centre[0]) + abs(column - centre[1]) <= _RADIUS


SITES = np.flatnonzero(
    mask(HEIGHT, WIDTH, [cell for cell in block((0, 15), (0, 21)) if any(_near(*cell, c) for c in _CENTRES)])
).astype(np.int32)
"""[64] flat cells where apples grow: six discs of radius 2 (in steps), cut by the border."""


def _neighbours() -> np.ndarray:
    rows, columns = SITES // WIDTH, SITES % WIDTH
    away = np.abs(rows[:, None] - rows) + np.abs(columns[:, None] - columns)
    return ((away > 0) & (away <= _RADIUS)).astype(np.float32)


NEIGHBOURS = _neighbours()
"""[64, 64] 1 where two sites are at most 2 apart (12 neighbours on a whole disc)."""


@functools.lru_cache(maxsize=len(LAYOUTS))
def make_map(layout: str) -> Terrain:
    """The map of a layout: 60 spawn cells in the south, two starting cells inside."""
    return terrain(HEIGHT, WIDTH, _WALLS[layout], _SPAWNS, _STARTS)


def count_neighbours(apples: Array) -> Array:
    """[64] float32 number of apples within 2 steps of each site, from [64] bool (exact: small integers)."""
    return apples.astype(jnp.float32) @ NEIGHBOURS


def regrowth(count: Array, one: Any, two: Any, three: Any) -> Array:
    """[...] float32 probability that an empty site with `count` [...] neighbours regrows: 0, `one`, `two`, `three` from 3 on."""
    return jnp.where(count >= 3, three, jnp.where(count >= 2, two, jnp.where(count >= 1, one, 0.0)))
