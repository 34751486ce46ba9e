"""Bit boards: a row of the map is a word, a cell is a bit. They paint a few things into a map without a scatter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def paint(row: Array, col: Array, bits: Array, shape: tuple[int, ...], planes: int = 1) -> Array:
    """Paint things into bit boards, without a scatter.

    Args:
      row: [K] rows of the things. col: [K] columns.
      bits: [K] integers, bit p set where the thing shows on plane p.
      shape: (H, W) of the map. planes: P.
    Returns:
      [P, H, ceil(W / 32)] uint32, bit c % 32 of word c // 32 is column c; things on one cell are joined by "or".
    """
    height, width = shape
    words = -(-width // 32)
    bits = bits.astype(jnp.uint32)
    shown = (bits >> np.arange(planes, dtype=np.uint32)[:, None]) & 1  # [P, K]
    at = shown << (col.astype(jnp.uint32) & 31)  # [P, K]
    match = row == np.arange(height)[:, None]  # [H, K]
    if words == 1:
        painted = jnp.where(match, at[:, None, :], np.uint32(0))[:, :, None, :]
    else:
        word = (col.astype(jnp.int32) >> 5) == np.arange(words)[:, None]  # [words, K]
        painted = jnp.where(match[:, None, :] & word, at[:, None, None, :], np.uint32(0))
    return jax.lax.reduce(painted, np.uint32(0), jax.lax.bitwise_or, (3,))


def plane(board: Array, width: int) -> Array:
    """[..., H, W] uint32 zeros and ones of bit boards [..., H, ceil(W / 32)]."""
    spread = [
        (board[..., word, None] >> np.arange(min(32, width - 32 * word), dtype=np.uint32)) & 1
        for word in range(board.shape[-1])
    ]
    return spread[0] if len(spread) == 1 else jnp.concatenate(spread, axis=-1)
