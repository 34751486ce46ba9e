"""Vectors of sites (cells where something can be): uniform choice, chances, spreading over the map, counting on cells.

A world with few resource cells keeps one small vector entry for each, in the order of a constant list of flat cells.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs import bitboard
from marl_bench.random import unit_interval

Array = jax.Array


def chance(words: Array, probability: Any) -> Array:
    """[...] bool, True with `probability`, from uniform words [...]; exact to 2^-24."""
    return unit_interval(words) < probability


def choose(candidates: Array, word: Array) -> Array:
    """Choose one of the candidates uniformly.

    Args:
      candidates: [S] bool. word: [] uint32 uniform; its upper 24 bits are used.
    Returns:
      [S] bool: True at the chosen one, nowhere if there is no candidate.
    """
    size = candidates.shape[0]
    rows = -(-size // 32)
    bits = jnp.pad(candidates, (0, 32 * rows - size)).reshape(rows, 32).astype(jnp.uint32)
    packed = jnp.sum(bits << np.arange(32, dtype=np.uint32), axis=1, dtype=jnp.uint32)
    index, bit = bitboard.choose_bit(packed, word)
    return candidates & (np.arange(size) == index * 32 + bit)


def standing(sites: np.ndarray, cells: Array) -> Array:
    """[S, N] bool: does avatar n (flat cells [N], below 0 if away) stand on site s (flat cells [S])?"""
    return sites[:, None].astype(np.int32) == cells[None]


def spread(values: Array, sites: np.ndarray, height: int, width: int) -> Array:
    """[H, W] map of site values [S]; 0 elsewhere."""
    table = np.full(height * width, len(sites), np.int32)
    table[sites] = np.arange(len(sites))
    padded = jnp.append(values, jnp.zeros(1, values.dtype))
    return padded.at[table].get(mode="promise_in_bounds").reshape(height, width)


def number_of(sites: np.ndarray, size: int) -> np.ndarray:
    """[size + 1] int32: the site at each flat cell, S where there is none (and outside)."""
    table = np.full(size + 1, len(sites), np.int32)
    table[sites] = np.arange(len(sites))
    return table
