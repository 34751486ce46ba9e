"""Shortest ways on a map, for scripted policies: distances found once on the host, then looked up."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid.geometry import HEADINGS, PAD, Terrain

Array = jax.Array

FAR = 10_000
"""Distance of what cannot be reached."""

_BY_TURN = np.array([av.FORWARD, av.STEP_RIGHT, av.BACKWARD, av.STEP_LEFT], np.int32)


@functools.lru_cache(maxsize=32)
def distances(terrain: Terrain, targets: tuple[int, ...]) -> np.ndarray:
    """[padded cells, S] int16 number of moves from each padded cell to each flat target cell; `FAR` from walls."""
    free = np.pad(~terrain.wall, PAD)
    away = np.full((len(targets), *free.shape), FAR, np.int16)
    for index, flat in enumerate(targets):
        away[index, flat // terrain.width + PAD, flat % terrain.width + PAD] = 0
    while True:
        nearest = away
        for row, column in HEADINGS:
            nearest = np.minimum(nearest, np.roll(away, (row, column), (1, 2)) + 1)
        nearest = np.where(free, nearest, FAR).astype(np.int16)
        if (nearest == away).all():
            return away.reshape(len(targets), -1).T.copy()
        away = nearest


def nearest(avatars: Any, terrain: Terrain, targets: tuple[int, ...], wanted: Array) -> tuple[Array, Array]:
    """The nearest target that each avatar wants.

    Args:
      avatars: N avatars. terrain: a map without a torus. targets: S flat cells. wanted: [S] or [N, S] bool.
    Returns:
      index: [N] int32, and its distance [N] int32 in moves; `FAR` or more where none can be reached.
    """
    table = jnp.asarray(distances(terrain, targets))
    away = jnp.where(wanted, table[av.padded(avatars.row, avatars.col, terrain)], FAR).astype(jnp.int32)
    return jnp.argmin(away, axis=1).astype(jnp.int32), jnp.min(away, axis=1)


def walk(avatars: Any, terrain: Terrain, targets: tuple[int, ...], goal: Array, key: Array) -> Array:
    """[N] int32 actions: a step of a shortest way to target number `goal` [N], or NOOP where there is no such step.

    Where two steps are equally good, or the better one is taken by an avatar, chance decides: queues dissolve.
    """
    n = goal.shape[0]
    table = jnp.asarray(distances(terrain, targets))
    at = av.padded(avatars.row, avatars.col, terrain)
    steps = np.array([row * terrain.stride + column for row, column in HEADINGS], np.int32)
    around = at[:, None] + steps
    now, then = table[at, goal], table[around, goal[:, None]]
    taken = jnp.any((around[:, :, None] == at) & avatars.alive, axis=2)
    # A detour is worth it only while somebody stands in the way.
    score = (now[:, None] - then).astype(jnp.float32) - 1.5 * taken + jax.random.uniform(key, (n, 4))
    direction = jnp.argmax(jnp.where(then < FAR, score, -jnp.inf), axis=1)
    action = jnp.asarray(_BY_TURN)[(direction - avatars.heading) & 3]
    return jnp.where((now > 0) & (now < FAR), action, av.NOOP)
