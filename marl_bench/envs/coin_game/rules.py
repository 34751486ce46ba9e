"""Rules of the coin game on plain arrays: moves on a torus, collecting, pay, where a coin reappears.

Two rule sets. With two coins (one of each colour at all times) agents may overlap, both collect if both arrive, and a
coin reappears on any cell: JaxMARL 0.2.0, `environments/coin_game`. With one coin its colour alternates, agent 0
wins a coin that both reach, and the coin reappears on a cell without an agent: the game of Foerster et al. 2018
(LOLA), as in its published code (`lola/envs/coin_game.py`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))
"""(row, column) displacement of each action; the last one stays."""


def wrap(position: Array, size: int) -> Array:
    """Coordinates [...] in -1 ... size put back on the torus of `size` cells."""
    return jnp.where(position < 0, position + size, jnp.where(position >= size, position - size, position))


def move(row: Array, col: Array, actions: Array, size: int) -> tuple[Array, Array]:
    """[N] int8 rows and columns after actions [N] (see `MOVES`)."""
    down = (actions == 2).astype(jnp.int8) - (actions == 3).astype(jnp.int8)
    right = (actions == 0).astype(jnp.int8) - (actions == 1).astype(jnp.int8)
    return wrap(row + down, size), wrap(col + right, size)


def collected(row: Array, col: Array, coin_row: Array, coin_col: Array) -> Array:
    """[2, C] bool: which agent collects which coin; with a single coin agent 0 wins it."""
    hits = (row[:, None] == coin_row) & (col[:, None] == coin_col)
    if hits.shape[1] == 1:
        hits = hits & ~jnp.stack([jnp.zeros_like(hits[0]), hits[0]])
    return hits


def pay(hits: Array, owner: Array, own_reward: Any, other_reward: Any, penalty: Any) -> Array:
    """[2] float32 reward: for own coins, for coins of the other's colour, and for own coins that the other took.

    Args:
      hits: [2, C] bool, see `collected`. owner: [C] agent whose colour each coin has.
      own_reward, other_reward, penalty: reward of one such event.
    """
    mine = owner == np.arange(2, dtype=np.int8)[:, None]

    def count(events: Array) -> Array:
        return jnp.sum(events, axis=1, dtype=jnp.float32)

    return own_reward * count(hits & mine) + other_reward * count(hits & ~mine) + penalty * count(hits[::-1] & mine)


def below(words: Array, bound: Any) -> Array:
    """Uniform int32 below `bound` (1 ... 256) from uint32 words; the bias is below bound / 2^24."""
    return (((words >> np.uint32(8)) * jnp.asarray(bound, jnp.uint32)) >> np.uint32(24)).astype(jnp.int32)


def split_cell(cell: Array, size: int) -> tuple[Array, Array]:
    """int8 row and column of cell indices [...]."""
    return (cell // size).astype(jnp.int8), (cell % size).astype(jnp.int8)


def any_cell(words: Array, size: int) -> tuple[Array, Array]:
    """int8 row and column of uniform cells, one for each word [...]."""
    return split_cell(below(words, size * size), size)


def cell_without(words: Array, row: Array, col: Array, size: int) -> tuple[Array, Array]:
    """int8 row and column of uniform cells other than two given ones (which may be the same).

    Args:
      words: [...] uint32. row, col: [2] int8. size: cells on a side, at least 2.
    """
    taken = row.astype(jnp.int32) * size + col
    low, high = jnp.minimum(taken[0], taken[1]), jnp.maximum(taken[0], taken[1])
    same = low == high
    cell = below(words, size * size - 2 + same.astype(jnp.int32))
    cell = cell + (cell >= low)
    return split_cell(cell + ((cell >= high) & ~same), size)
