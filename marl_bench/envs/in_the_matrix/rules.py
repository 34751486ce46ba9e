"""Rules of the games in the matrix on plain arrays: gathering, damage, regrowth, who meets whom, what a meeting pays.

N agents, S resource sites, K resource types. Source: Melting Pot 2, `the_matrix` (configurations `*_in_the_matrix__*`).
A site holds `health` (0: nothing there) and `delay`, the steps until an empty site may grow again.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

MAX_ROUNDS = 4
"""Rounds in which conflicting shots of one step are settled, see `meetings`."""

_ORDER = np.array([0, 3, 6, 1, 4, 7, 2, 5, 8], np.int8)
"""Turn of each cell of the beam (middle column 1, 2, 3 ahead, left column 0, 1, 2 ahead, right column): by distance."""


def regrow(health: Array, delay: Array, occupied: Array, chance: Array, rate: Any, full: Any) -> tuple[Array, Array]:
    """Let empty sites whose delay is over grow at random.

    Args:
      health: [S] int8, delay: [S] int8 steps left.
      occupied: [S] bool, an avatar stands there.
      chance: [S] float32, uniform in [0, 1).
      rate: probability of growth in a step. full: health of a new resource.
    Returns:
      health: [S] int8, delay: [S] int8, one lower. A resource taken at step t grows at t + delay at the earliest.
    """
    delay = jnp.maximum(delay - 1, 0).astype(jnp.int8)
    grows = (health == 0) & (delay == 0) & ~occupied & (chance < rate)
    return jnp.where(grows, jnp.asarray(full, jnp.int8), health), delay


def gather(on_site: Array, health: Array, kind: Array, types: int) -> tuple[Array, Array]:
    """Take the resources under avatars.

    Args:
      on_site: [N, S] bool, which live avatar stands on which site (at most one a site).
      health: [S] int8. kind: [S] int8 type of each site. types: K.
    Returns:
      gained: [N, K] int16. taken: [S] bool.
    """
    found = on_site & (health > 0)
    gained = [jnp.sum(found & (kind == k), axis=1, dtype=jnp.int16) for k in range(types)]
    return jnp.stack(gained, axis=1), jnp.any(found, axis=0)


def remove(health: Array, delay: Array, loss: Array, wait: Any) -> tuple[Array, Array]:
    """Take `loss` [S] from the health [S]; what reaches 0 vanishes and its site waits `wait` steps."""
    left = jnp.maximum(health - loss, 0).astype(jnp.int8)
    gone = (health > 0) & (left == 0)
    return left, jnp.where(gone, jnp.asarray(wait, jnp.int8), delay)


def meetings(aims: Array, priority: Array) -> Array:
    """Which shots of a step become interactions, an agent taking part in at most one.

    Shots are settled in the order of their shooters' priorities: one counts if neither agent is in an earlier one. At
    most `MAX_ROUNDS` links of a chain of mutually dependent shots are settled (exact up to nine agents); shots behind
    them miss.

    Args:
      aims: [N, N] bool, aims[i, j]: the shot of i would interact with j; at most one j for each i.
      priority: [N] uint32, distinct and positive; higher goes first.
    Returns:
      [N, N] bool, a subset of `aims`.
    """
    count = aims.shape[0]
    itself = np.eye(count, dtype=bool)
    settled = jnp.zeros_like(aims)
    # 0 stands for "no shot".
    rank = jnp.where(jnp.any(aims, axis=1), priority, np.uint32(0))
    for _ in range(min(max(count // 2, 1), MAX_ROUNDS)):
        touches = aims | (itself & jnp.any(aims, axis=1)[:, None])
        best = jnp.max(jnp.where(touches, rank[:, None], np.uint32(0)), axis=0)
        wins = aims & (best == rank)[:, None] & (best[None, :] == rank[:, None])
        settled = settled | wins
        busy = jnp.any(wins, axis=1) | jnp.any(wins, axis=0)
        aims = aims & ~busy[:, None] & ~busy[None, :]
        rank = jnp.where(jnp.any(aims, axis=1), rank, np.uint32(0))
    return settled


def distinct(word: Array) -> Array:
    """Distinct positive uint32 priorities from uniform words [N], N <= 128; the low byte tells the agent."""
    index = np.arange(word.shape[0], dtype=np.uint32)
    return (word & np.uint32(0xFFFFFF00)) | np.uint32(2) * index | np.uint32(1)


def as_row_players(meets: Array, roles: bool) -> Array:
    """[N, N] bool: i is the row player of a meeting with j.

    Args:
      meets: [N, N] bool, shooter and target. roles: agents of even index are always row players; else the shooter is.
    """
    if not roles:
        return meets
    even = np.arange(meets.shape[0]) % 2 == 0
    return (meets | meets.T) & even[:, None]


def mixed(inventory: Array) -> Array:
    """[N, K] float32 strategy of each agent: its inventory [N, K] divided by its sum (which must be positive)."""
    counts = inventory.astype(jnp.float32)
    return counts / jnp.sum(counts, axis=1, keepdims=True)


def payoffs(strategy: Array, row_player: Array, row_matrix: Array, column_matrix: Array) -> Array:
    """[N] float32 payoff of each agent's meeting, 0 for who has none.

    Args:
      strategy: [N, K]. row_player: [N, N] bool, see `as_row_players`.
      row_matrix: [K, K] payoffs A. column_matrix: [K, K] payoffs B.
    """
    types = strategy.shape[1]

    def value(matrix: Array) -> Array:
        """[N, N]: payoff if i plays the rows and j the columns."""
        total = jnp.zeros(row_player.shape, jnp.float32)
        for row in range(types):
            against = sum(matrix[row, column] * strategy[:, column] for column in range(types))
            total = total + strategy[:, row, None] * jnp.asarray(against)[None, :]
        return total

    row_gain = jnp.where(row_player, value(row_matrix), 0.0)
    column_gain = jnp.where(row_player, value(column_matrix), 0.0)
    return jnp.sum(row_gain, axis=1) + jnp.sum(column_gain, axis=0)


def partner_inventory(inventory: Array, meets: Array) -> Array:
    """[N, K] inventory of the agent that each one meets; zeros for who meets nobody."""
    pairs = meets | meets.T
    columns = [jnp.sum(jnp.where(pairs, inventory[None, :, k], 0), axis=1) for k in range(inventory.shape[1])]
    return jnp.stack(columns, axis=1).astype(inventory.dtype)


def first_hit(flat: Array, lit: Array, cells: Array) -> Array:
    """[N, N] bool: the avatar that each beam hits first, nearest first, then the middle before left before right.

    Args:
      flat: [N, 9] flat cells of the beam of length 3 and radius 1, in the engine's order. lit: [N, 9] bool, reached.
      cells: [N] flat cells of the avatars.
    """
    on = (flat[:, :, None] == cells) & lit[:, :, None]
    order = jnp.min(jnp.where(on, _ORDER[:, None], np.int8(len(_ORDER))), axis=1)
    nearest = jnp.min(order, axis=1, keepdims=True)
    return (order == nearest) & (nearest < len(_ORDER))
