"""Rules of coins on plain arrays: the playing field of an episode, growth, and who is paid.

A cell holds 0 (nothing), 1 (a coin of agent 0's colour) or 2 (of agent 1's).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid.sites import chance

Array = jax.Array

NOTHING = np.int8(0)


def uniform_between(word: Array, low: int, high: int) -> Array:
    """[] int8 uniform in low ... high, both included, from a uint32 word (its upper 24 bits)."""
    span = np.uint32(high - low + 1)
    return (low + (((word >> np.uint32(8)) * span) >> np.uint32(24))).astype(jnp.int8)


def field_mask(height: Array, width: Array, rows: int, columns: int) -> Array:
    """[rows, columns] bool: cells of the playing field, the upper left rectangle of a height and a width."""
    row, column = jnp.arange(rows, dtype=jnp.int8), jnp.arange(columns, dtype=jnp.int8)
    return (row[:, None] < height) & (column < width)


def starts(height: Array, width: Array, swap: Array) -> tuple[Array, Array]:
    """Rows and columns [2] int8 where the agents start: near the upper right and the lower left corner; swapped by `swap`."""
    one, zero = jnp.asarray(1, jnp.int8), swap.astype(bool)
    upper, lower = (one, width - 2), (height - 2, one)
    row = jnp.stack([jnp.where(zero, lower[0], upper[0]), jnp.where(zero, upper[0], lower[0])])
    col = jnp.stack([jnp.where(zero, lower[1], upper[1]), jnp.where(zero, upper[1], lower[1])])
    return row.astype(jnp.int8), col.astype(jnp.int8)


def grow(kind: Array, may_grow: Array, words: Array, rate: Any) -> Array:
    """[cells] int8 kinds after coins of a fair colour have appeared on empty cells.

    Args:
      kind: [cells] int8. may_grow: [cells] bool.
      words: [cells] uint32: the upper 24 bits decide whether, the lowest which colour.
      rate: probability in a step.
    """
    new = (kind == NOTHING) & may_grow & chance(words, rate)
    return jnp.where(new, (1 + (words & np.uint32(1))).astype(jnp.int8), kind)


def collect(kind: Array, cells: Array) -> tuple[Array, Array, Array]:
    """Take the coins on which agents stand.

    Args:
      kind: [cells] int8. cells: [2] int32 flat cells of the agents, all different.
    Returns:
      kind afterwards, and [2] bool each: took a coin of the own colour, of the other's.
    """
    on = np.arange(kind.shape[0], dtype=np.int32) == cells[:, None]
    found = jnp.sum(jnp.where(on, kind, 0), axis=1)
    own = np.array([1, 2], np.int8)
    return jnp.where(jnp.any(on, axis=0), NOTHING, kind), found == own, (found > 0) & (found != own)


def pay(own: Array, other: Array, self_match: Any, self_mismatch: Any, other_match: Any, other_mismatch: Any) -> Array:
    """[2] float32 reward.

    Args:
      own: [2] bool, took a coin of the own colour. other: [2] bool, took one of the other's colour.
      self_match, self_mismatch: paid to the collector. other_match, other_mismatch: paid to the other agent.
    """
    own, other = own.astype(jnp.float32), other.astype(jnp.float32)
    return self_match * own + self_mismatch * other + other_match * own[::-1] + other_mismatch * other[::-1]
