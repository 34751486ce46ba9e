"""Scripted policies of coins: walk to the nearest coin, of the own colour or of any."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid import paths

Array = jax.Array


@functools.lru_cache(maxsize=8)
def _table(rows: int, columns: int) -> np.ndarray:
    """[cells, cells] int16 steps between cells of an empty board."""
    row, col = np.divmod(np.arange(rows * columns), columns)
    return (abs(row[:, None] - row) + abs(col[:, None] - col)).astype(np.int16)


def nearest(state: Any, wanted: Array, rows: int, columns: int, key: Array) -> Array:
    """[2] actions of a shortest way to the nearest wanted cell; NOOP where there is none.

    Args:
      state: state of the world. wanted: [2, cells] bool. rows, columns: of the board. key: [] breaks ties of ways.
    """
    avatars, table = state.avatars, _table(rows, columns)
    here = avatars.row.astype(jnp.int32) * columns + avatars.col
    away = jnp.where(wanted, jnp.asarray(table)[here], paths.FAR)
    goal = jnp.where(jnp.any(wanted, axis=1), jnp.argmin(away, axis=1).astype(jnp.int32), here)
    wall = np.zeros((rows, columns), bool)
    noise = jax.random.uniform(key, (2, 4))
    return paths.towards(avatars.row, avatars.col, avatars.heading, goal, table, wall, noise)
