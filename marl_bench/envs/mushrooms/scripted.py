"""Scripted policies of the externality mushrooms: eat what feeds others, or what feeds oneself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.grid import paths
from marl_bench.envs.grid.scripted import steps_from, unsteady

Array = jax.Array


def eater(env: Any, kinds: tuple[Any, ...]) -> ScriptedPolicy:
    """Policy that walks to the nearest mushroom of the first of `kinds` that there is, and goes round all others.

    One action in twenty is a random move.
    """
    table, wall = paths.distances(env.terrain.wall), env.terrain.wall

    def act(state: Any, noise: Array) -> Array:
        who, kind = state.avatars, state.resources.kind
        count = who.row.shape[0]
        steps = steps_from(who, env.terrain, table)
        goal, found = jnp.zeros(count, jnp.int32), jnp.asarray(False)
        wanted = jnp.zeros(kind.shape, bool)
        for number in kinds:
            this = kind == number
            nearest = jnp.argmin(jnp.where(this, steps, 2 * paths.FAR), axis=1).astype(jnp.int32)
            goal = jnp.where(found, goal, nearest)
            wanted = jnp.where(found, wanted, this)
            found = found | jnp.any(this)
        avoid = (kind > 0) & ~wanted
        walk = paths.towards(who.row, who.col, who.heading, goal, table, wall, noise, avoid)
        return jnp.where(found, walk, paths.NOOP)

    return unsteady(act, paths.STEP_RIGHT)
