"""Sets of cells as words: against Python sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from marl_bench.envs import bitboard

SHAPES = [(5, 4), (3, 33), (2, 64), (4, 70)]


def cells(board, rows, cols):
    """The cells of a set [R * W]."""
    bits = np.asarray(board).reshape(rows, -1)[:, :, None] >> np.arange(32, dtype=np.uint32) & 1
    bits = bits.reshape(rows, -1)
    assert not bits[:, cols:].any()
    return {(int(r), int(c)) for r, c in np.argwhere(bits)}


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_interior_is_what_is_off_the_border(rows, cols):
    for margin in (0, 1):
        expected = {(r, c) for r in range(margin, rows - margin) for c in range(margin, cols - margin)}
        board = bitboard.interior(rows, cols, margin)
        assert cells(board, rows, cols) == expected and bitboard.size(jnp.asarray(board)) == len(expected)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 3), st.data())
def test_diamonds(shape, reach, data):
    rows, cols = shape
    row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    board = bitboard.interior(rows, cols, 0)
    near = bitboard.diamond(jnp.int32(row), jnp.int32(col), reach, len(board), cols) & board
    everything = cells(board, rows, cols)
    assert cells(near, rows, cols) == {(r, c) for r, c in everything if abs(r - row) + abs(c - col) <= reach}
    assert not bitboard.diamond(jnp.int32(-1), jnp.int32(-1), reach, len(board), cols).any()


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_choice_is_uniform(rows, cols):
    board = bitboard.interior(rows, cols, 0) & np.random.default_rng(0).integers(
        0, 2**32, rows * -(-cols // 32), np.uint32
    )
    words = jax.random.bits(jax.random.key(1), (20_000,))
    row, col = jax.jit(jax.vmap(lambda word: bitboard.choose(jnp.asarray(board), word, cols)))(words)
    expected = cells(board, rows, cols)
    chosen, counts = np.unique(np.stack([row, col], axis=1), axis=0, return_counts=True)
    assert {tuple(cell) for cell in chosen.tolist()} == expected
    assert stats.chisquare(counts).pvalue > 1e-4
    extremes = [jnp.uint32(0), jnp.uint32(2**32 - 1)]
    ends = [bitboard.choose(jnp.asarray(board), word, cols) for word in extremes]
    assert [(int(r), int(c)) for r, c in ends] == [min(expected), max(expected)]


def test_nothing_is_chosen_from_nothing():
    assert bitboard.choose(jnp.zeros(4, jnp.uint32), jnp.uint32(7), 30) == (-1, -1)
