"""Picture of cooperative mining: ore as discs."""

from __future__ import annotations

from typing import Any

import numpy as np

from marl_bench.envs import raster
from marl_bench.envs.coop_mining.rules import GOLD, IRON
from marl_bench.envs.grid.viewer import FLOOR, WALL, Picture

IRON_COLOUR, GOLD_COLOUR, BEGUN_COLOUR = (120, 120, 130), (240, 190, 0), raster.ORANGE


def picture(ore: Any, wall: np.ndarray) -> Picture:
    """What lies below the avatars. `ore`: of the state; `wall`: [H, W] bool."""
    kind, begun = np.asarray(ore.kind).reshape(wall.shape), np.asarray(ore.miner).reshape(wall.shape) >= 0
    things = (
        (kind == IRON, IRON_COLOUR),
        ((kind == GOLD) & ~begun, GOLD_COLOUR),
        ((kind == GOLD) & begun, BEGUN_COLOUR),
    )
    return Picture(wall.astype(np.int8), (FLOOR, WALL), things)
