"""Scripted policies of territory: claim what nobody holds, or take and shoot."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid import paths
from marl_bench.envs.grid.geometry import HEADINGS
from marl_bench.envs.territory.maps import layout

Array = jax.Array

ZAP, CLAIM = 7, 8


class Ways(NamedTuple):
    """How to get at the walls of a map while they stand; C cells, M walls.

    Attributes:
      steps: [C, C] int16, steps between cells.
      away: [C, M] int16, steps to the nearest cell from which a wall can be faced.
      stand: [C, M] int32, that cell.
      face: [C, M] int32, the heading to take there.
      behind: [C, M] int32, the wall behind it in this direction; M if there is none.
    """

    steps: np.ndarray
    away: np.ndarray
    stand: np.ndarray
    face: np.ndarray
    behind: np.ndarray


@functools.lru_cache(maxsize=4)
def ways(name: str) -> Ways:
    """The table of a map."""
    resource, wall, _ = layout(name)
    rows, columns = resource.shape
    torus = name == "rooms"
    steps = paths.distances(wall | resource)
    sites = np.argwhere(resource)
    number = np.full(resource.shape, len(sites), np.int32)
    number[tuple(sites.T)] = np.arange(len(sites))
    away, stand, behind = (np.full((4, rows * columns, len(sites)), paths.FAR, np.int32) for _ in range(3))
    for heading, (down, right) in enumerate(HEADINGS):
        for site, (row, col) in enumerate(sites):
            place, far = (row - down, col - right), (row + down, col + right)
            behind[heading, :, site] = (
                number[far[0] % rows, far[1] % columns] if torus or inside(far, rows, columns) else len(sites)
            )
            if torus or inside(place, rows, columns):
                cell = place[0] % rows * columns + place[1] % columns
                away[heading, :, site], stand[heading, :, site] = steps[:, cell], cell
    face = np.argmin(away, axis=0)[None]
    chosen = [np.take_along_axis(table, face, axis=0)[0] for table in (away, stand, behind)]
    return Ways(steps, chosen[0].astype(np.int16), chosen[1], face[0].astype(np.int32), chosen[2])


def inside(cell: tuple[int, int], rows: int, columns: int) -> bool:
    """Does the cell lie on a board of this size?"""
    return 0 <= cell[0] < rows and 0 <= cell[1] < columns


def go_and_face(state: Any, name: str, wanted: Array, at_goal: int, key: Array) -> Array:
    """[N] actions that walk to the nearest wanted wall, turn to it, and then do `at_goal`; NOOP if there is none.

    Args:
      state: state of the world. name: of the map. wanted: [N, M] bool. at_goal: an action. key: [] breaks ties of ways.
    """
    avatars, known = state.avatars, ways(name)
    resource, wall, _ = layout(name)
    columns = resource.shape[1]
    here = avatars.row.astype(jnp.int32) * columns + avatars.col
    away = jnp.where(wanted, jnp.asarray(known.away)[here], paths.FAR)
    site = jnp.argmin(away, axis=1)
    reachable = jnp.min(away, axis=1) < paths.FAR
    stand, face = jnp.asarray(known.stand)[here, site], jnp.asarray(known.face)[here, site]
    noise = jax.random.uniform(key, (here.shape[0], 4))
    walk = paths.towards(avatars.row, avatars.col, avatars.heading, stand, known.steps, wall | resource, noise)
    relative = (face - avatars.heading) & 3
    turn = jnp.where(relative == 3, paths.TURN_LEFT, paths.TURN_RIGHT)
    action = jnp.where(here != stand, walk, jnp.where(relative == 0, at_goal, turn))
    return jnp.where(reachable, action, paths.NOOP).astype(jnp.int32)


def _worth_facing(state: Any, name: str, target: Array, allowed: Array) -> Array:
    """[N, M] bool: walls that are targets, or that may be faced and have a target behind them, within the claim beam."""
    resource, _, _ = layout(name)
    here = state.avatars.row.astype(jnp.int32) * resource.shape[1] + state.avatars.col
    beyond = jnp.take_along_axis(jnp.pad(target, ((0, 0), (0, 1))), jnp.asarray(ways(name).behind)[here], axis=1)
    return target | (allowed & (state.resources.health > 0) & beyond)


def _mine(state: Any) -> Array:
    """[N, M] bool: whose wall is it?"""
    return state.resources.owner == np.arange(state.avatars.row.shape[0], dtype=np.int8)[:, None]


def _free(state: Any) -> Array:
    """[M] bool: walls that stand and that nobody holds."""
    return (state.resources.health > 0) & (state.resources.owner < 0)


def cooperate(state: Any, name: str, key: Array) -> Array:
    """[N] actions that claim walls that nobody holds, also those behind the own, and leave the others and theirs alone."""
    mine = _mine(state)
    free = jnp.broadcast_to(_free(state), mine.shape)
    return go_and_face(state, name, _worth_facing(state, name, free, mine), CLAIM, key)


def defect(state: Any, name: str, key: Array) -> Array:
    """[N] actions that claim what nobody holds, then the others' walls, and shoot whoever is in reach."""
    avatars, mine = state.avatars, _mine(state)
    anything = jnp.ones_like(mine)
    free = _worth_facing(state, name, jnp.broadcast_to(_free(state), mine.shape), anything)
    others = _worth_facing(state, name, (state.resources.health > 0) & ~mine, anything)
    here = avatars.row.astype(jnp.int32) * layout(name)[0].shape[1] + avatars.col
    any_free = jnp.any(free & (jnp.asarray(ways(name).away)[here] < paths.FAR), axis=1, keepdims=True)
    action = go_and_face(state, name, jnp.where(any_free, free, others), CLAIM, key)
    ahead, aside = paths.relative(
        avatars.row[:, None], avatars.col[:, None], avatars.heading[:, None], avatars.row[None], avatars.col[None]
    )
    near = ((aside == 0) & (ahead >= 1) & (ahead <= 2)) | ((abs(aside) == 1) & (ahead >= 0) & (ahead <= 1))
    other = ~np.eye(avatars.row.shape[0], dtype=bool)
    target = jnp.any(near & avatars.alive[None] & other, axis=1)
    return jnp.where(target & (avatars.waits[:, 0] == 0), ZAP, action).astype(jnp.int32)
