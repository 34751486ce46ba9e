"""Picture of the common pool: the stock as a filled tank, and what each agent caught last."""

from __future__ import annotations

from typing import Any

import numpy as np

from marl_bench.envs import raster

SKINS = {"fishery": raster.WATER, "pasture": raster.GRASS, "pollution": raster.SAND}
"""Colour of the stock in each skin."""

_TANK, _BAR, _HEIGHT = 96, 32, 160


def render(state: Any, capacity: float, skin: str) -> np.ndarray:
    """uint8 [160, 96 + 32 N, 3]: stock on the left with its number, last catches as bars, each a part of `capacity`."""
    caught = np.asarray(state.last_caught)
    picture = raster.canvas(_HEIGHT, _TANK + _BAR * len(caught), raster.FLOOR)
    level = _HEIGHT * float(state.stock) / capacity
    raster.rectangle(picture, _HEIGHT - level, 0, level, _TANK - 8, SKINS[skin])
    raster.frame(picture, 0, 0, _HEIGHT, _TANK - 8, raster.LINE)
    raster.text(picture, f"{float(state.stock):.0f}", _HEIGHT / 2, (_TANK - 8) / 2, raster.BLACK, 3, centred=True)
    for agent, amount in enumerate(caught):
        height = _HEIGHT * float(amount) / capacity
        left = _TANK + _BAR * agent
        raster.rectangle(picture, _HEIGHT - height, left, height, _BAR - 6, raster.agent_colour(agent))
        raster.text(picture, f"{amount:.0f}", _HEIGHT - height - 8, left + _BAR / 2 - 3, raster.BLACK, 1, centred=True)
    return picture
