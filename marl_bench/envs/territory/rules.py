"""Rules of territory on plain arrays: who holds the walls, what they pay, what shots do to walls and avatars.

N agents, M resource walls. A wall has an owner (-1: nobody), an age (steps since it was claimed), a health (2 whole, 1
damaged, 0 destroyed for good) and the number of steps since it was last shot. Source: Melting Pot 2, `territory`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

NOBODY = np.int8(-1)
WHOLE, DAMAGED, DESTROYED = np.int8(2), np.int8(1), np.int8(0)
LONG = np.int16(30_000)
"""Where counts of steps stop counting."""


def tick(steps: Array) -> Array:
    """Count one step on, up to `LONG`. `steps`: [M] int16."""
    return jnp.minimum(steps + np.int16(1), LONG)


def repair(health: Array, since: Array, lucky: Array, delay: Any) -> Array:
    """[M] int8 health after damaged walls that have been left alone for `delay` steps, and are `lucky`, are whole again.

    Args:
      health: [M] int8. since: [M] int16, steps since the last shot. lucky: [M] bool.
      delay: steps.
    """
    return jnp.where((health == DAMAGED) & (since >= delay) & lucky, WHOLE, health)


def dry(owner: Array, age: Array, delay: Any) -> Array:
    """[M] bool: walls that somebody has held for `delay` steps, so that they may pay."""
    return (owner >= 0) & (age >= delay)


def income(owner: Array, amount: Array, agents: int) -> Array:
    """[N] float32: what each agent's walls pay. `owner`: [M] int8; `amount`: [M] float32."""
    mine = owner == np.arange(agents, dtype=np.int8)[:, None]
    return jnp.sum(jnp.where(mine, amount, 0.0), axis=1)


def claim(owner: Array, age: Array, claims: Array, priority: Array) -> tuple[Array, Array, Array]:
    """Settle the claims of a step; where several agents claim a wall, the highest priority among them wins.

    Args:
      owner: [M] int8. age: [M] int16.
      claims: [N, M] bool. priority: [N] uint32, a uniform word each (equal ones: the lower index wins).
    Returns:
      owner, age (0 where the owner has changed), and [N, M] bool what each agent has newly got.
    """
    agents = np.arange(claims.shape[0], dtype=np.int8)[:, None]
    best = jnp.max(jnp.where(claims, priority[:, None], np.uint32(0)), axis=0)
    leads = claims & (priority[:, None] == best)
    winner = jnp.min(jnp.where(leads, agents, np.int8(127)), axis=0)
    changed = jnp.any(claims, axis=0) & (winner != owner)
    got = (agents == winner) & changed
    return jnp.where(changed, winner, owner), jnp.where(changed, np.int16(0), age), got


def damage(health: Array, owner: Array, since: Array, shots: Array) -> tuple[Array, Array, Array]:
    """Shots take one health each; a wall without health belongs to nobody, for good.

    Args:
      health: [M] int8. owner: [M] int8. since: [M] int16. shots: [M] integers, shots that reach each wall.
    Returns:
      health, owner, since (0 where shot).
    """
    hit = (shots > 0) & (health > DESTROYED)
    left = jnp.where(hit, jnp.maximum(health - shots.astype(jnp.int8), DESTROYED), health)
    return left, jnp.where(left == DESTROYED, NOBODY, owner), jnp.where(hit, np.int16(0), since)


def release(owner: Array, gone: Array) -> Array:
    """[M] int8 owners after those of `gone` [N] bool have lost all their walls."""
    agents = np.arange(gone.shape[0], dtype=np.int8)[:, None]
    return jnp.where(jnp.any((owner == agents) & gone[:, None], axis=0), NOBODY, owner)


def sanction(mark: Array, hits: Array) -> tuple[Array, Array]:
    """What shots do to avatars: the first one marks, one more while marked (or in the same step) removes.

    Args:
      mark: [N] int8, steps until the mark clears; 0 without one. hits: [N] integers, shots that reach each avatar.
    Returns:
      [N] bool each: newly marked, to be removed.
    """
    total = (mark > 0).astype(jnp.int32) + hits
    struck = hits > 0
    return struck & (total < 2), struck & (total >= 2)
