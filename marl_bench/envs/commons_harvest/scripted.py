"""Scripted policies of commons harvest: take any apple, or only those that leave two neighbours to grow from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.envs.commons_harvest import rules
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import routes, sites

Array = jax.Array

ENOUGH = 2
"""Neighbouring apples that a cooperator wants to see beside the one it takes."""

_SITES = tuple(rules.SITES.tolist())


def greedy(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: to the nearest apple; without apples stay."""
    return _towards(world, state, state.resources, key)


def careful(world: Any, state: Any, key: Array) -> Array:
    """[N] actions: to the nearest apple with `ENOUGH` neighbours, round the others; without such apples stay."""
    apples = state.resources
    good = apples & (rules.count_neighbours(apples) >= ENOUGH)
    action = _towards(world, state, good, key)
    # A step onto an apple that should stay is not taken.
    row, col, _ = av.wanted(state.avatars.row, state.avatars.col, state.avatars.heading, action)
    flat = row.astype(jnp.int32) * rules.WIDTH + col
    bad = jnp.any(sites.standing(rules.SITES, flat) & (apples & ~good)[:, None], axis=0)
    return jnp.where(bad, av.NOOP, action)


def _towards(world: Any, state: Any, wanted: Array, key: Array) -> Array:
    goal, away = routes.nearest(state.avatars, world.terrain, _SITES, wanted)
    action = routes.walk(state.avatars, world.terrain, _SITES, goal, key)
    return jnp.where(away < routes.FAR, action, av.NOOP).astype(jnp.int32)
