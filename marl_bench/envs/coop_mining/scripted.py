"""Scripted policies of cooperative mining: go to gold together, or keep to iron."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.coop_mining import rules
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import beams, paths
from marl_bench.envs.grid.scripted import steps_from, unsteady

Array = jax.Array

MINE = 7


def miner(env: Any, gold: bool) -> ScriptedPolicy:
    """Policy that mines the nearest ore of its kind.

    With `gold` an agent goes to the gold for which its own way and that of the nearest other agent are shortest in sum,
    and to the nearest iron where there is no gold; without, it goes to the nearest iron and aims at no gold. One action
    in twenty is random.
    """
    table, wall = paths.distances(env.terrain.wall), env.terrain.wall

    def act(state: Any, noise: Array) -> Array:
        who, kind = state.avatars, state.resources.kind
        count = who.row.shape[0]
        steps = steps_from(who, env.terrain, table)
        wanted = jnp.broadcast_to(kind == rules.IRON, steps.shape)
        cost = steps
        if gold:
            others = jnp.where(np.eye(count, dtype=bool)[:, :, None], 2 * paths.FAR, steps[None])
            any_gold = jnp.any(kind == rules.GOLD)
            wanted = jnp.where(any_gold, kind == rules.GOLD, wanted)
            cost = jnp.where(any_gold, steps + jnp.min(others, axis=1), steps)
        cost = jnp.where(wanted, cost, 4 * paths.FAR)
        goal = jnp.argmin(cost, axis=1).astype(jnp.int32)
        found = jnp.any(wanted, axis=1)
        return jnp.where(found, _mine(env, state, goal, table, wall, noise), paths.NOOP)

    return unsteady(act)


def _mine(env: Any, state: Any, goal: Array, table: np.ndarray, wall: np.ndarray, noise: Array) -> Array:
    """[N] actions that get the ore at each agent's goal: fire if a shot would hit it, else turn or walk."""
    who, kind = state.avatars, state.resources.kind
    beam = env.beams[0]
    aimed = beams.aim(who, beam, env.terrain)
    ore = av.look_up(jnp.append(kind, jnp.int8(0)), aimed.flat) > 0
    shot = beams.shoot(jnp.ones(goal.shape, bool), aimed, ore, who, beam, env.terrain)
    hits = jnp.any(shot.lit & (shot.flat == goal[:, None]), axis=1)
    row, col = goal // env.terrain.width, goal % env.terrain.width
    ahead, aside = paths.relative(who.row, who.col, who.heading, row, col)
    # On a straight line and near: turning will bring the ore into the beam.
    beside = (ahead == 0) & (jnp.abs(aside) >= 1) & (jnp.abs(aside) <= beam.length)
    behind = (aside == 0) & (ahead < 0) & (ahead >= -beam.length)
    walk = paths.towards(who.row, who.col, who.heading, goal, table, wall, noise, (kind > 0))
    step_off = jnp.where(noise[:, 0] < 0.5, paths.FORWARD, paths.BACKWARD)
    action = jnp.where(beside | behind, paths.turn(aside), jnp.where((ahead == 0) & (aside == 0), step_off, walk))
    loaded = who.waits[:, 0] == 0
    return jnp.where(hits, jnp.where(loaded, MINE, paths.NOOP), action)
