"""Scripted policies of the games in the matrix: gather one type, then seek an interaction."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import beams, paths
from marl_bench.envs.grid.scripted import unsteady
from marl_bench.envs.in_the_matrix import rules

Array = jax.Array

ENOUGH = 3
"""Resources of the wanted type after which an agent seeks an interaction."""

INTERACT = 7
NEAR = 4
"""Steps to a partner from which an agent turns towards it instead of walking on."""


def gatherer(env: Any, kind: int) -> ScriptedPolicy:
    """Policy that gathers `ENOUGH` resources of a type (or what there is), then hits the nearest agent that is ready.

    On the way it goes round resources of other types. One action in twenty is random, which frees agents that block
    each other.

    Args:
      env: an `InTheMatrix`. kind: 0 ... K - 1.
    """
    table, wall, places = paths.distances(env.terrain.wall), env.terrain.wall, env.map.cells

    def act(state: Any, noise: Array) -> Array:
        who, old = state.avatars, state.resources
        here = who.row.astype(jnp.int32) * env.terrain.width + who.col
        steps = jnp.asarray(table[:, places])[here]
        there = (old.health > 0) & (old.kind == kind)
        away = jnp.where(there, steps, paths.FAR)
        goal = jnp.asarray(places)[jnp.argmin(away, axis=1)]
        found = jnp.min(away, axis=1) < paths.FAR
        other = (old.health > 0) & (old.kind != kind)
        avoid = jnp.zeros(wall.size, bool).at[places].set(other)
        gather = paths.towards(who.row, who.col, who.heading, goal, table, wall, noise, avoid)
        gather = jnp.where(found, gather, paths.NOOP)
        meet, any_partner = _seek(env, state, here, noise, avoid, table, wall)
        enough = old.ready & ((old.inventory[:, kind] > ENOUGH) | ~found)
        return jnp.where(enough & any_partner, meet, gather)

    return unsteady(act)


def _seek(
    env: Any, state: Any, here: Array, noise: Array, avoid: Array, table: np.ndarray, wall: np.ndarray
) -> tuple[Array, Array]:
    """[N] actions that bring about an interaction, and whether there is anybody to interact with [N]."""
    who, old = state.avatars, state.resources
    count = here.shape[0]
    able = old.ready & ~old.engaged & who.alive
    partner = able[None, :] & ~np.eye(count, dtype=bool)
    if env.payoff.roles:
        even = np.arange(count) % 2
        partner = partner & (even[:, None] != even[None, :])
    beam = env.beams[0]
    aimed = beams.aim(who, beam, env.terrain)
    blocked = jnp.append(old.health > 1, False)[jnp.asarray(env.map.site_of)[aimed.flat]]
    shot = beams.shoot(jnp.ones(count, bool), aimed, blocked, who, beam, env.terrain)
    first = rules.first_hit(shot.flat, shot.lit, av.cells(who, env.terrain))
    hits = jnp.any(first & partner, axis=1)
    steps = jnp.where(partner, jnp.asarray(table)[here[:, None], here[None, :]], paths.FAR)
    nearest = jnp.argmin(steps, axis=1)
    ahead, aside = paths.relative(who.row, who.col, who.heading, who.row[nearest], who.col[nearest])
    close = jnp.min(steps, axis=1) <= NEAR
    facing = (ahead > 0) & (jnp.abs(aside) <= ahead)
    walk = paths.towards(who.row, who.col, who.heading, here[nearest], table, wall, noise, avoid)
    action = jnp.where(close & ~facing, paths.turn(aside), walk)
    loaded = who.waits[:, 0] == 0
    return jnp.where(hits, jnp.where(loaded, INTERACT, paths.NOOP), action), jnp.any(partner, axis=1)
