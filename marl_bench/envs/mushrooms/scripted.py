"""Scripted policies of the externality mushrooms: eat what feeds others, or what feeds oneself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.grid import paths

Array = jax.Array


def eater(env: Any, kinds: tuple[Any, ...]) -> ScriptedPolicy:
    """Policy that walks to the nearest mushroom of the first of `kinds` that there is, and goes round all others.

    One action in twenty is a random move.
    """
    table, wall = paths.distances(env.terrain.wall), env.terrain.wall

    def policy(state: Any, observation: Any, key: Array) -> Array:
        del observation
        key_noise, key_slip, key_random = jax.random.split(key, 3)
        who, kind = state.avatars, state.resources.kind
        count = who.row.shape[0]
        here = who.row.astype(jnp.int32) * env.terrain.width + who.col
        steps = jnp.asarray(table)[here].astype(jnp.int32)
        goal, found = jnp.zeros(count, jnp.int32), jnp.asarray(False)
        wanted = jnp.zeros(kind.shape, bool)
        for number in kinds:
            this = kind == number
            nearest = jnp.argmin(jnp.where(this, steps, 2 * paths.FAR), axis=1).astype(jnp.int32)
            goal = jnp.where(found, goal, nearest)
            wanted = jnp.where(found, wanted, this)
            found = found | jnp.any(this)
        noise = jax.random.uniform(key_noise, (count, 4))
        avoid = (kind > 0) & ~wanted
        walk = paths.towards(who.row, who.col, who.heading, goal, table, wall, noise, avoid)
        random = jax.random.randint(key_random, (count,), paths.FORWARD, paths.STEP_RIGHT + 1)
        slip = jax.random.uniform(key_slip, (count,)) < 0.05
        return jnp.where(slip, random, jnp.where(found, walk, paths.NOOP)).astype(jnp.int32)

    return policy
