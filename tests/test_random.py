"""Counter-based random words: the cipher is JAX's, draws are independent of batching, marginals are uniform."""

from __future__ import annotations

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench.random import NUM_STREAMS, threefry2x32, unit_interval, windowed_words, words


def test_cipher_has_the_published_answers():
    # Known answers of Random123 for Threefry-2x32, 20 rounds: (key, counter) -> output.
    ones = 0xFFFFFFFF
    pi = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
    for key, counter, wanted in (
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ones, ones), (ones, ones), (0x1CB996FC, 0xBB002BE7)),
        (*pi, (0xC4923A9C, 0x483DF7A0)),
    ):
        found = threefry2x32(tuple(map(jnp.uint32, key)), tuple(map(jnp.uint32, counter)))
        assert tuple(map(int, found)) == wanted


def test_words_are_those_of_jax():
    key = jax.random.key(7, impl="threefry2x32")
    np.testing.assert_array_equal(words(key, jnp.int32(0), 0, 33), jax.random.bits(key, (33,), jnp.uint32))


@pytest.mark.parametrize(("counter", "stream"), [(0, 3), (5, 0), (2**29 - 1, NUM_STREAMS - 1)])
def test_counter_and_stream_select_the_upper_word(counter, stream):
    key = jax.random.key(2**32 - 1)
    high = jnp.full(4, counter * NUM_STREAMS + stream, jnp.uint32)
    pair = jax.extend.random.threefry_2x32(
        jax.random.key_data(key), jnp.concatenate([high, jnp.arange(4, dtype=jnp.uint32)])
    )
    np.testing.assert_array_equal(words(key, jnp.int32(counter), stream, 4), pair[:4] ^ pair[4:])


def test_draws_do_not_depend_on_what_runs_beside():
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda key: words(key, jnp.int32(9), 1, 8)  # noqa: E731
    together = jax.jit(jax.vmap(draw))(keys)
    np.testing.assert_array_equal(together, np.stack([draw(key) for key in keys]))
    assert len(np.unique(together)) == 24


@pytest.mark.parametrize("columns", [2, 7, 900])
def test_windowed_words_use_every_drawn_bit_twice(columns):
    key, rows = jax.random.key(3), 4
    found = np.asarray(windowed_words(key, jnp.int32(2), 0, rows, columns))
    assert found.shape == (rows, columns)
    drawn = np.asarray(words(key, jnp.int32(2), 0, (rows * columns + 1) // 2))
    halves = np.concatenate([drawn & 0xFFFF, drawn >> 16])[: rows * columns].reshape(rows, columns)
    np.testing.assert_array_equal(found >> 16, halves)
    np.testing.assert_array_equal(found & 0xFFFF, np.roll(halves, -(columns // 2), axis=1))


def test_a_single_column_gets_whole_words():
    """There is no other entry to borrow bits from."""
    key = jax.random.key(3)
    found = windowed_words(key, jnp.int32(2), 0, 4, 1)
    np.testing.assert_array_equal(found[:, 0], words(key, jnp.int32(2), 0, 4))


def test_windowed_words_are_uniform_and_uncorrelated():
    # 200 draws of [4, 900]: the mean of 720,000 uniforms has standard error 0.00034, a correlation 0.0012.
    draw = jax.jit(jax.vmap(lambda counter: windowed_words(jax.random.key(1), counter, 0, 4, 900)))
    uniform = np.asarray(unit_interval(draw(jnp.arange(200))))
    assert abs(uniform.mean() - 0.5) < 0.0015
    np.testing.assert_allclose(np.histogram(uniform, 16, (0, 1))[0] / uniform.size, 1 / 16, atol=0.0015)
    for shift in (1, 450):
        assert abs(np.corrcoef(uniform.ravel(), np.roll(uniform, shift, axis=-1).ravel())[0, 1]) < 0.006


def test_unit_interval_is_half_open():
    ends = unit_interval(jnp.asarray([0, 255, 256, 2**32 - 1], jnp.uint32))
    assert ends.dtype == jnp.float32 and ends.tolist() == [0.0, 0.0, 2.0**-24, 1 - 2.0**-24]
