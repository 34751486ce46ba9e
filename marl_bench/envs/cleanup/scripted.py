"""Scripted policies of cleanup: eat the nearest apple, or clean while the river is dirty and eat otherwise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.envs.cleanup import rules
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import beams, routes

Array = jax.Array

CLEAN_ABOVE, APART = 0.10, 0.04
"""Cooperator i cleans while the dirty fraction is above CLEAN_ABOVE + APART * i: so few clean when little is to be done,
and all do at the start."""

_CLEAN = 8
_APPLES, _DIRT = (tuple(cells.tolist()) for cells in (rules.APPLE_SITES, rules.DIRT_SITES))


def eat(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: to the nearest apple; without apples to the nearest apple site, and wait there."""
    ripe = state.resources.apples
    goal, _ = routes.nearest(state.avatars, world.terrain, _APPLES, ripe | ~jnp.any(ripe))
    return routes.walk(state.avatars, world.terrain, _APPLES, goal, key)


def clean(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: shoot if the cleaning beam reaches dirt, else turn to dirt beside, else walk to the nearest."""
    avatars, dirt = state.avatars, state.resources.dirt

    def reaches(turned: int) -> Array:
        aimed = beams.aim(avatars.replace(heading=(avatars.heading + turned) & 3), world.beams[1], world.terrain)
        return jnp.any(rules.dirty(dirt, aimed.flat), axis=1)

    goal, _ = routes.nearest(avatars, world.terrain, _DIRT, dirt)
    action = routes.walk(avatars, world.terrain, _DIRT, goal, key)
    action = jnp.where(reaches(3), av.TURN_LEFT, jnp.where(reaches(1), av.TURN_RIGHT, action))
    shoot = jnp.where(avatars.waits[:, 1] == 0, _CLEAN, av.NOOP)
    return jnp.where(reaches(0), shoot, action).astype(jnp.int32)


def cooperate(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: `clean` while more of the sites are dirty than the agent's own limit, else `eat`."""
    key_eat, key_clean = jax.random.split(key)
    phi = jnp.mean(state.resources.dirt.astype(jnp.float32))
    limit = CLEAN_ABOVE + APART * jnp.arange(world.num_agents)
    return jnp.where(phi > limit, clean(world, state, key_clean), eat(world, state, key_eat))
