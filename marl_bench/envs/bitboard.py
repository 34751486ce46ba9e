"""Sets of cells of a board as words of 32 bits: choosing one of them, and taking cells away, cost a few operations a row.

A board of R rows and C columns is [R * W] uint32, W = ceil(C / 32) words a row; bit b of word w of a row is column 32 w + b.
Functions are for one board; batches come by `vmap`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.random import unit_interval

Array = jax.Array

WORD = 32
"""Bits of a word."""

_UP_TO = (np.uint64(2) << np.arange(WORD, dtype=np.uint64)).astype(np.uint32) - np.uint32(1)
"""[32] uint32: all bits up to and including each."""


def words_a_row(cols: int) -> int:
    """W, words of a row of `cols` columns."""
    return -(-cols // WORD)


def rows_of(rows: int, cols: int) -> np.ndarray:
    """[R * W] int32: the row of each word."""
    return np.repeat(np.arange(rows, dtype=np.int32), words_a_row(cols))


def interior(rows: int, cols: int, margin: int) -> np.ndarray:
    """[R * W] uint32: the cells at least `margin` cells from the border."""
    cells = np.zeros((rows, words_a_row(cols) * WORD), np.uint64)
    cells[margin : rows - margin, margin : cols - margin] = 1
    bits = np.uint64(1) << np.arange(WORD, dtype=np.uint64)
    return (cells.reshape(-1, WORD) * bits).sum(axis=1).astype(np.uint32)


def size(board: Array) -> Array:
    """[] int32: number of cells of a set [R * W]."""
    return jnp.sum(jax.lax.population_count(board).astype(jnp.int32))


def choose(board: Array, word: Array, cols: int) -> tuple[Array, Array]:
    """Choose a cell of a set uniformly.

    Args:
      board: [R * W] uint32. word: [] uint32 uniform; its upper 24 bits are used.
      cols: columns of the board.
    Returns:
      row: [] int32, and col: [] int32; -1 if the set is empty.
    """
    index, bit = choose_bit(board, word)
    width = words_a_row(cols)
    here = index >= 0
    return jnp.where(here, index // width, -1), jnp.where(here, index % width * WORD + bit, -1)


def choose_bit(board: Array, word: Array) -> tuple[Array, Array]:
    """Choose a set bit uniformly.

    Args:
      board: [K] uint32. word: [] uint32 uniform; its upper 24 bits are used.
    Returns:
      index: [] int32 of the word, -1 if no bit is set, and bit: [] int32, 0 ... 31.
    """
    count = jax.lax.population_count(board).astype(jnp.int32)
    size = board.shape[0]
    earlier = jnp.sum(jnp.where(np.tri(size, k=-1, dtype=bool), count[None], 0), axis=1)
    rank = jnp.floor(unit_interval(word) * jnp.sum(count)).astype(jnp.int32)
    here = (earlier <= rank) & (rank < earlier + count)
    left = rank - jnp.sum(jnp.where(here, earlier, 0))
    rest = jnp.sum(jnp.where(here, board, np.uint32(0)), dtype=jnp.uint32)
    # The place of a set bit is the number of places up to which no more than `left` bits are set.
    reached = jax.lax.population_count(rest & _UP_TO).astype(jnp.int32)
    bit = jnp.minimum(jnp.sum((reached <= left).astype(jnp.int32)), WORD - 1)
    return jnp.where(jnp.any(here), jnp.sum(jnp.where(here, np.arange(size), 0)), -1), bit


def diamond(row: Array, col: Array, reach: int, length: int, cols: int) -> Array:
    """[length] uint32, length = R * W: the cells at most `reach` steps (L1) from a cell; nothing if that is at -1, -1."""
    width = words_a_row(cols)
    at, word = np.divmod(np.arange(length, dtype=np.int32), width)
    left = reach - jnp.abs(at - row)
    until = _below(col + left + 1 - word * WORD) & ~_below(col - left - word * WORD)
    return jnp.where((left >= 0) & (row >= 0), until, 0)


def _below(bit: Array) -> Array:
    """Words whose bits below `bit` are set; none for bit <= 0, all from 32 on."""
    partial = (np.uint32(1) << jnp.clip(bit, 0, WORD - 1).astype(jnp.uint32)) - np.uint32(1)
    return jnp.where(bit >= WORD, np.uint32(2**32 - 1), partial)
