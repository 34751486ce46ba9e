"""Map and rates of cleanup (spec: social dilemmas, section 2.2; Melting Pot 2, `clean_up`)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid import sites
from marl_bench.envs.grid.geometry import Terrain, block, mask, terrain

Array = jax.Array

HEIGHT, WIDTH = 19, 28

RIVER = [*block((0, 4), (0, 27)), *block(5, (15, 22)), *block(6, (19, 21)), *block((7, 14), (19, 20))]
"""Cells of the river; it can be walked on."""

_DIRTY = {
    0: (1, 2, 3, 5, 6, 8, 10, 12, 14, 16, 18, 21, 23, 24, 25, 27),
    1: (1, 3, 5, 6, 8, 10, 12, 14, 16, 18, 21, 23, 24, 25, 27),
    2: (1, 2, 4, 5, 8, 10, 12, 14, 16, 18, 21, 23, 24, 25, 27),
    3: (1, 3, 5, 6, 8, 10, 12, 14, 16, 18, 21, 23, 24, 25, 27),
    4: (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 21, 23, 24, 25, 27),
    5: (16,),
}
_SPAWNS = (
    (6, 3), (6, 8), (7, 5), (7, 11), (7, 15), (7, 24), (8, 13), (8, 17), (9, 3), (9, 8), (9, 25), (10, 15), (10, 22),
    (11, 5), (11, 17), (12, 11), (12, 23), (13, 2), (13, 16),
)  # fmt: skip
_ORCHARD = [
    *((14, column) for column in (*range(1, 18, 2), 23, 25, 27)),
    *block(15, (0, 18)),
    *block(15, (21, 27)),
    *block((16, 18), (0, 27)),
]


def _flat(cells: list[tuple[int, int]]) -> np.ndarray:
    return np.flatnonzero(mask(HEIGHT, WIDTH, cells)).astype(np.int32)


DIRT_SITES = _flat([*block((0, 4), (0, 27)), *block(5, (16, 22))])
"""[147] flat cells that can carry dirt."""
APPLE_SITES = _flat(_ORCHARD)
"""[122] flat cells where apples grow."""
DIRTY_AT_START = np.isin(DIRT_SITES, _flat([(row, column) for row, columns in _DIRTY.items() for column in columns]))
"""[147] bool, the 79 sites that start dirty."""
DIRT_NUMBER = sites.number_of(DIRT_SITES, HEIGHT * WIDTH)
"""[H * W + 1] dirt site of each flat cell; 147 where there is none."""
RIVER_MASK = mask(HEIGHT, WIDTH, RIVER)
"""[H, W] bool."""


@functools.lru_cache(maxsize=1)
def make_map() -> Terrain:
    """The map: no inner walls, 19 spawn cells."""
    return terrain(HEIGHT, WIDTH, spawns=_SPAWNS)


def growth(dirt: Array, rate: Any, depletion: Any, restoration: Any) -> Array:
    """[] float32 probability that an apple grows on an empty site in a step.

    rate * (phi - depletion) / (restoration - depletion), limited to 0 ... rate, with phi = dirty sites / all sites.
    """
    phi = jnp.mean(dirt.astype(jnp.float32))
    return rate * jnp.clip((phi - depletion) / (restoration - depletion), 0.0, 1.0)


def pollute(dirt: Array, words: Array, probability: Any) -> Array:
    """[147] bool dirt after one step of pollution: with `probability` one uniform clean site gets dirty.

    Args:
      dirt: [147] bool. words: [2] uint32 uniform.
      probability: that anything happens.
    """
    return dirt | (sites.choose(~dirt, words[0]) & sites.chance(words[1], probability))


def dirty(dirt: Array, flat: Array) -> Array:
    """[...] bool: is there dirt on the flat cells [...] (H * W for outside)?"""
    table = jnp.append(dirt, jnp.zeros(1, bool))
    number = jnp.asarray(DIRT_NUMBER).at[flat].get(mode="promise_in_bounds")
    return table.at[number].get(mode="promise_in_bounds")
