"""The map of cooperative mining and of gift refinements: 25 x 25 cells inside the wall (Melting Pot 2, `coop_mining`)."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np
from flax import struct

from marl_bench.environment import field
from marl_bench.envs.grid import geometry
from marl_bench.envs.grid.geometry import Terrain, block
from marl_bench.envs.grid.world import GridWorld

SIZE = 25

WALLS = (
    *block((2, 5), 8), *block((3, 6), 19), *block(5, (9, 14)), *block(6, (3, 4)), *block((6, 9), 9), *block(8, (15, 17)),
    *block((11, 15), 5), *block(11, (6, 7)), *block(11, (14, 21)), *block(12, (2, 4)), *block((13, 14), 10), (15, 11),
    *block((15, 17), 20), (16, 6), *block(16, (12, 15)), (17, 7), (18, 8), (19, 9), *block((19, 21), 18),
    *block((20, 22), 4), *block(21, (14, 17)), *block(21, (19, 21)), (22, 17),
)  # fmt: skip
"""Inner walls."""

SPAWNS = (
    (1, 1), (1, 11), (1, 17), (1, 23), (5, 23), (6, 1), (7, 12), (10, 23), (11, 1), (13, 16), (14, 23), (17, 1),
    (18, 12), (18, 23), (23, 1), (23, 8), (23, 16), (23, 23),
)  # fmt: skip
"""Cells where avatars appear; no ore grows there."""


@functools.lru_cache
def mine() -> Terrain:
    """The map."""
    return geometry.terrain(SIZE, SIZE, WALLS, SPAWNS)


@functools.lru_cache
def barren() -> np.ndarray:
    """[625] bool: cells where no ore grows, walls and spawn cells."""
    terrain = mine()
    return terrain.wall.reshape(-1) | np.isin(np.arange(terrain.size), terrain.spawns)


@struct.dataclass
class MineWorld(GridWorld):
    """Base of the worlds on this map: six agents, at least two."""

    FEWEST_PLAYERS: ClassVar[int] = 2
    players: int = field(6, static=True, doc="N, number of agents; 2 to 18", unit="agents")

    @property
    def terrain(self) -> Terrain:
        """25 x 25 cells."""
        return mine()
