"""Scripted policies of gift refinements: refine by giving back and forth, or consume what is found."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid import paths
from marl_bench.envs.grid.geometry import Terrain

Array = jax.Array

GIVE, CONSUME = 7, 8
PATIENCE = 8
"""Steps away at which an agent with empty hands stops and waits for one that has something to give."""


def _nearest(away: Array, wanted: Array, here: Array) -> Array:
    """[N] cell of the nearest wanted cell; the own cell if there is none. `away`, `wanted` [N, M]."""
    goal = jnp.argmin(jnp.where(wanted, away, paths.FAR), axis=1).astype(jnp.int32)
    return jnp.where(jnp.any(wanted & (away < paths.FAR), axis=1), goal, here)


def _gather(state: Any, terrain: Terrain, table: np.ndarray, noise: Array) -> Array:
    """[N] actions that walk to the nearest token."""
    avatars = state.avatars
    here = avatars.row.astype(jnp.int32) * terrain.width + avatars.col
    goal = _nearest(jnp.asarray(table)[here], state.resources.token[None], here)
    return paths.towards(avatars.row, avatars.col, avatars.heading, goal, table, terrain.wall, noise)


def defect(state: Any, terrain: Terrain, key: Array) -> Array:
    """[N] actions that collect tokens and consume them at once."""
    noise = jax.random.uniform(key, (state.avatars.row.shape[0], 4))
    walk = _gather(state, terrain, paths.distances(terrain.wall), noise)
    return jnp.where(jnp.any(state.resources.inventory > 0, axis=1), CONSUME, walk).astype(jnp.int32)


def cooperate(state: Any, terrain: Terrain, length: int, key: Array) -> Array:
    """[N] actions that give away all that can be refined, to the nearest agent, and consume what is fully refined.

    Whoever has nothing waits for a giver close by, and else collects raw tokens.

    Args:
      state: state of the world. terrain: its map. length: of the beam. key: [] breaks ties of ways.
    """
    avatars, inventory = state.avatars, state.resources.inventory
    agents = avatars.row.shape[0]
    table = paths.distances(terrain.wall)
    noise = jax.random.uniform(key, (agents, 4))
    here = avatars.row.astype(jnp.int32) * terrain.width + avatars.col
    away = jnp.where(np.eye(agents, dtype=bool), paths.FAR, jnp.asarray(table)[here[:, None], here[None, :]])
    partner = jnp.argmin(away, axis=1)
    ahead, aside = paths.relative(avatars.row, avatars.col, avatars.heading, avatars.row[partner], avatars.col[partner])
    # In line and as far as the straight line is long: nothing stands between.
    distance = jnp.take_along_axis(away, partner[:, None], axis=1)[:, 0]
    in_line = ((ahead == 0) | (aside == 0)) & (abs(ahead) + abs(aside) == distance) & (distance <= length)
    facing = in_line & (ahead > 0)
    approach = paths.towards(avatars.row, avatars.col, avatars.heading, here[partner], table, terrain.wall, noise)
    shoot = jnp.where(avatars.waits[:, 0] == 0, GIVE, paths.NOOP)
    hand_over = jnp.where(facing, shoot, jnp.where(in_line, paths.turn(aside), approach))
    loaded = jnp.any(inventory[:, :2] > 0, axis=1)
    giver_near = jnp.any(loaded[None] & (away <= PATIENCE), axis=1)
    idle = jnp.where(giver_near, paths.NOOP, _gather(state, terrain, table, noise))
    action = jnp.where(inventory[:, 2] > 0, CONSUME, jnp.where(loaded, hand_over, idle))
    return action.astype(jnp.int32)
