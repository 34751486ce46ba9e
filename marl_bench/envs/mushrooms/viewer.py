"""Picture of the externality mushrooms: discs in the colours of their kinds."""

from __future__ import annotations

from typing import Any

import numpy as np

from marl_bench.envs import raster
from marl_bench.envs.grid.viewer import FLOOR, WALL, Picture

COLOURS = (raster.RED, raster.GREEN, raster.BLUE, raster.ORANGE)
"""Of kinds 1 to 4."""


def picture(patch: Any, wall: np.ndarray) -> Picture:
    """What lies below the avatars. `patch`: of the state; `wall`: [H, W] bool."""
    kind = np.asarray(patch.kind).reshape(wall.shape)
    things = tuple((kind == number, colour) for number, colour in enumerate(COLOURS, start=1))
    return Picture(wall.astype(np.int8), (FLOOR, WALL), things)
