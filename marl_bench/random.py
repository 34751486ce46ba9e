"""Counter-based random words: Threefry-2x32 written so that XLA fuses it into its consumers.

`jax.random.bits` gives the same words (tested), but on a CPU its rolled loop costs about twice as much and a split
per step costs more than the draw. Here a draw is a pure function of (key, counter, stream): nothing is split, no key
is carried, and the draws of a cell do not depend on how many cells run beside it.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (20 rounds).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

NUM_STREAMS = 8
"""Independent draws per counter value."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry2x32(key: tuple[jax.Array, jax.Array], counter: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Encrypt `counter` (two uint32 arrays of one shape) under `key` (two uint32 scalars): two uint32 arrays."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0 = counter[0] + schedule[0]
    x1 = counter[1] + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def words(key: jax.Array, counter: jax.Array, stream: int, num: int) -> jax.Array:
    """[num] uint32 uniform words: draw number `counter` of `stream`.

    Args:
      key: [] typed threefry key.
      counter: [] int32, non-negative, below 2^29.
      stream: which of the `NUM_STREAMS` independent draws.
      num: how many words.
    """
    data = jax.random.key_data(key)
    high = counter.astype(jnp.uint32) * np.uint32(NUM_STREAMS) + np.uint32(stream)
    low = jnp.arange(num, dtype=jnp.uint32)
    x0, x1 = threefry2x32((data[0], data[1]), (jnp.full((num,), high), low))
    return x0 ^ x1


def windowed_words(key: jax.Array, counter: jax.Array, stream: int, rows: int, columns: int) -> jax.Array:
    """[rows, columns] uint32, each entry uniform, from half as many words.

    Each 32-bit entry is 16 fresh bits followed by the 16 fresh bits of an entry half a row away. Marginals are
    exactly uniform; two entries of a row are dependent only through bits that a comparison looks at with probability
    2^-16, so the joint law of comparisons against thresholds differs from independence by less than 2^-16 a pair.
    """
    if columns < 2:  # there is no other entry to borrow from
        return words(key, counter, stream, rows * columns).reshape(rows, columns)
    total = rows * columns
    drawn = words(key, counter, stream, (total + 1) // 2)
    # The concatenation also keeps XLA from recomputing the cipher in every consumer.
    halves = jnp.concatenate([drawn & np.uint32(0xFFFF), drawn >> np.uint32(16)])[:total].reshape(rows, columns)
    shift = columns // 2
    partner = jnp.concatenate([halves[:, shift:], halves[:, :shift]], axis=1)
    return (halves << np.uint32(16)) | partner


def unit_interval(word: jax.Array) -> jax.Array:
    """Map uint32 words to float32 in [0, 1) with 24-bit resolution."""
    return (word >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def normal(word: jax.Array) -> jax.Array:
    """Map uint32 words to standard normal float32 numbers by the inverse distribution function; none is beyond 5.4."""
    # 23 bits and a half are all that float32 can tell apart: no word may be rounded to 0 or 1.
    share = ((word >> np.uint32(9)).astype(jnp.float32) + np.float32(0.5)) * np.float32(2.0**-22) - np.float32(1)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(share)
