"""Rules of gift refinements on plain arrays: picking up, consuming and giving tokens.

An inventory is [N, 3] int8: raw tokens, tokens refined once, tokens refined twice. Source: Melting Pot 2,
`gift_refinements` (configuration and `components.lua`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

TYPES = 3


def pick_up(token: Array, inventory: Array, cells: Array, capacity: int) -> tuple[Array, Array, Array]:
    """Take the tokens on which agents stand; what an inventory cannot hold is lost.

    Args:
      token: [M] bool, where tokens lie. inventory: [N, 3] int8.
      cells: [N] int32 cell of each agent, all different. capacity: tokens of one type that an agent can hold.
    Returns:
      token, inventory, and [N] bool who took a token from the map.
    """
    on = np.arange(token.shape[0], dtype=np.int32) == cells[:, None]
    took = jnp.any(on & token, axis=1)
    raw = jnp.minimum(inventory[:, 0] + took, capacity).astype(jnp.int8)
    return token & ~jnp.any(on, axis=0), jnp.concatenate([raw[:, None], inventory[:, 1:]], axis=1), took


def consume(inventory: Array, who: Array) -> tuple[Array, Array]:
    """Turn all tokens of `who` [N] bool into reward, one for each, whatever its type.

    Returns:
      inventory afterwards [N, 3], and what was consumed [N, 3] int8.
    """
    eaten = jnp.where(who[:, None], inventory, np.int8(0))
    return inventory - eaten, eaten


def given(inventory: Array, giving: Array) -> Array:
    """[N, 3] bool: the token that each of `giving` [N] parts with, of its most refined type; nothing if it has none."""
    has = inventory > 0
    better = jnp.stack([has[:, 1] | has[:, 2], has[:, 2], jnp.zeros_like(giving)], axis=1)
    return has & ~better & giving[:, None]


def give(inventory: Array, hits: Array, multiplier: Any, capacity: int) -> tuple[Array, Array]:
    """Move gifts: a token becomes `multiplier` tokens of the next type, one of the last type stays what it is.

    All gifts of a step come from the inventories before any of them; what a receiver cannot hold is lost.

    Args:
      inventory: [N, 3] int8. hits: [N, N] bool, hits[i, j]: i gives to j (at most one j for each i).
      multiplier: whole number. capacity: tokens of one type that an agent can hold.
    Returns:
      inventory afterwards, and [N, 3] bool the types that were given.
    """
    gone = given(inventory, jnp.any(hits, axis=1))
    many = jnp.asarray(multiplier, jnp.int32)
    out = jnp.stack([jnp.zeros_like(gone[:, 0], jnp.int32), many * gone[:, 0], many * gone[:, 1] + gone[:, 2]], axis=1)
    received = jnp.sum(jnp.where(hits[:, :, None], out[:, None, :], 0), axis=0)
    total = inventory.astype(jnp.int32) - gone + received
    return jnp.minimum(total, capacity).astype(jnp.int8), gone
