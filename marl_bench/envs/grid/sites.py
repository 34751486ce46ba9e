"""Vectors of sites (cells where something can be): uniform choice, chances, spreading over the map, counting on cells.

A world with few resource cells keeps one small vector entry for each, in the order of a constant list of flat cells.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    # Packed into words of 32 bits: the k-th set bit is found by halving, without a cumulative sum or a sort.
    bits = jnp.pad(candidates, (0, 32 * rows - size)).reshape(rows, 32).astype(jnp.uint32)
    packed = jnp.sum(bits << np.arange(32, dtype=np.uint32), axis=1, dtype=jnp.uint32)
    count = jax.lax.population_count(packed).astype(jnp.int32)
    earlier = jnp.sum(jnp.where(np.tri(rows, k=-1, dtype=bool), count[None], 0), axis=1)
    total = jnp.sum(count)
    rank = jnp.floor(unit_interval(word) * total).astype(jnp.int32)
    here = (earlier <= rank) & (rank < earlier + count)
    left = rank - jnp.sum(jnp.where(here, earlier, 0))
    rest = jnp.sum(jnp.where(here, packed, np.uint32(0)), dtype=jnp.uint32)
    place = jnp.sum(jnp.where(here, 32 * np.arange(rows), 0))
    for width in (16, 8, 4, 2, 1):
        below = jax.lax.population_count(rest & np.uint32((1 << width) - 1)).astype(jnp.int32)
        skip = left >= below
        left = left - jnp.where(skip, below, 0)
        rest = jnp.where(skip, rest >> np.uint32(width), rest)
        place = place + jnp.where(skip, width, 0)
    return candidates & (np.arange(size) == place)


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
