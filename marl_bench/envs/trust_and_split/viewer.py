"""Picture of trust-and-split: for each agent its hand, what it said in this round, and what it claimed in the last."""

from __future__ import annotations

from typing import Any

import numpy as np

from marl_bench.envs import raster

_LETTERS = "RPS"
_ROW, _WIDTH = 60, 320


def render(state: Any) -> np.ndarray:
    """uint8 [120, 320, 3]: one row an agent: hand, tokens (`-` not yet said), claim of the last round (`?` none)."""
    picture = raster.canvas(2 * _ROW, _WIDTH, raster.FLOOR)
    hands, last = np.asarray(state.hands), np.asarray(state.last_hands)
    tokens, claims = np.asarray(state.tokens), np.asarray(state.last_claims)
    for agent in range(2):
        middle = agent * _ROW + _ROW / 2
        raster.rectangle(picture, agent * _ROW + 6, 6, _ROW - 12, _ROW - 12, raster.agent_colour(agent))
        raster.text(picture, _LETTERS[hands[agent]], middle, _ROW / 2, raster.WHITE, 5, centred=True)
        said = " ".join("-" if token < 0 else str(token) for token in tokens[agent])
        raster.text(picture, said[:16], middle, 150, raster.BLACK, 3, centred=True)
        claimed = "?" if last[0] < 0 else f"{_LETTERS[last[agent]]}:{claims[agent]}"
        raster.text(picture, claimed, middle, 270, raster.BLACK, 4, centred=True)
    return picture
