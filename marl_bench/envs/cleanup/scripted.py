"""Scripted policies of cleanup: eat the nearest apple, or clean while the river is dirty and eat otherwise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.cleanup import rules
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import beams, routes
from marl_bench.envs.grid.geometry import footprint

Array = jax.Array

CLEAN_ABOVE, APART = 0.05, 0.03
"""A cooperator cleans while the dirty fraction is above CLEAN_ABOVE + APART * k, where k agents have less far to dirt than
it has: all do at the start, and where little is to be done few, those that are on the spot."""

_CLEAN = 8
_APPLES, _DIRT = (tuple(cells.tolist()) for cells in (rules.APPLE_SITES, rules.DIRT_SITES))

_MOVES = np.array(
    [av.NOOP, av.FORWARD, av.BACKWARD, av.STEP_LEFT, av.STEP_RIGHT, av.TURN_LEFT, av.TURN_RIGHT], np.int32
)
_TURNS = np.array([0, 0, 0, 0, 0, 3, 1], np.int8)
"""Quarter turns to the right that each of `_MOVES` makes."""


def eat(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: to the nearest apple; without apples to the nearest apple site, and wait there."""
    ripe = state.resources.apples
    goal, _ = routes.nearest(state.avatars, world.terrain, _APPLES, ripe | ~jnp.any(ripe))
    return routes.walk(state.avatars, world.terrain, _APPLES, goal, key)


def prospects(world: Any, state: Any) -> Array:
    """[7, N] number of columns of the cleaning beam, 0 to 3, that would end at dirt after each move; -1 if it is not possible.

    The moves are noop, four steps, left turn, right turn, as the others stand now.
    """
    avatars, beam = state.avatars, world.beams[1]
    side = footprint(beam.length, beam.radius).sideways
    other = avatars.alive & ~np.eye(avatars.row.shape[0], dtype=bool)

    def after(move: Array, turns: Array) -> Array:
        row, col, _ = av.wanted(avatars.row, avatars.col, avatars.heading, jnp.full(avatars.row.shape, move))
        there = avatars.replace(row=row, col=col, heading=(avatars.heading + turns) & 3)
        found = rules.dirty(state.resources.dirt, beams.aim(there, beam, world.terrain).flat)
        columns = [jnp.any(found & (side == place), axis=1) for place in range(-beam.radius, beam.radius + 1)]
        free = (row >= 0) & (row < rules.HEIGHT) & (col >= 0) & (col < rules.WIDTH)
        free = free & ~jnp.any((row[:, None] == avatars.row) & (col[:, None] == avatars.col) & other, axis=1)
        return jnp.where(free, jnp.sum(jnp.stack(columns), axis=0), -1)

    return jax.vmap(after)(jnp.asarray(_MOVES), jnp.asarray(_TURNS))


def clean(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: shoot unless one move makes the shot better by two cells; else make it better, or walk to dirt."""
    key_walk, key_tie = jax.random.split(key)
    cells = prospects(world, state)
    goal, _ = _nearest_dirt(world, state)
    walk = routes.walk(state.avatars, world.terrain, _DIRT, goal, key_walk)
    # Staying wins a tie, so that one waits for the next shot where it is as good as anywhere near.
    best = jnp.argmax(cells + 0.5 * jax.random.uniform(key_tie, cells.shape).at[0].set(1.0), axis=0)
    most = jnp.max(cells, axis=0)
    shoot = (state.avatars.waits[:, 1] == 0) & (cells[0] > 0) & (cells[0] + 1 >= most)
    move = jnp.where(most > 0, jnp.asarray(_MOVES)[best], walk)
    return jnp.where(shoot, _CLEAN, move).astype(jnp.int32)


def cooperate(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: `clean` while more of the sites are dirty than the agent's limit, see `CLEAN_ABOVE`; else `eat`."""
    key_eat, key_clean = jax.random.split(key)
    phi = jnp.mean(state.resources.dirt.astype(jnp.float32))
    _, away = _nearest_dirt(world, state)
    nearer = jnp.sum(state.avatars.alive & (away < away[:, None]), axis=1)
    limit = CLEAN_ABOVE + APART * nearer
    return jnp.where(phi > limit, clean(world, state, key_clean), eat(world, state, key_eat))


def _nearest_dirt(world: Any, state: Any) -> tuple[Array, Array]:
    """Number of the nearest dirty site of each agent and the moves to it, both [N] int32."""
    return routes.nearest(state.avatars, world.terrain, _DIRT, state.resources.dirt)
