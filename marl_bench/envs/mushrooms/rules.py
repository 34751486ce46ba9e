"""Rules of the externality mushrooms on plain arrays: what eating pays and costs, spores, ageing, zapping.

N agents, M cells. A cell holds `kind` (0: nothing) and `life` (steps until the mushroom perishes; 0: it does not).
Source: Melting Pot 2, `externality_mushrooms` (its configuration, from which its own description differs in places).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

NOTHING, RED, GREEN, BLUE, ORANGE = (np.int8(kind) for kind in range(5))

GROWN = np.array([RED] * 3 + [GREEN] * 3 + [BLUE] * 3 + [ORANGE], np.int8)
"""[10] what grows in each of the ten chances that an eaten mushroom's spores have: three for red, green and blue each,
one for orange."""


def _table() -> np.ndarray:
    table = np.zeros((5, 10), np.float32)
    table[RED, :3] = 0.25
    table[GREEN, :3], table[GREEN, 3:6] = 0.25, 0.4
    table[BLUE, :3], table[BLUE, 3:6], table[BLUE, 6:9] = 0.25, 0.4, 0.6
    table[ORANGE, 9] = 1.0
    return table


SPORES = _table()
"""[5, 10] probability that each chance of `GROWN` comes true, by the kind eaten: three spores for each kind but orange,
which has one, and each spore tries its kinds independently."""


def eat(eaten: Array, red: Any, green: Any, blue: Any, orange: Any) -> Array:
    """[N] float32 reward of all agents for what each has eaten.

    Args:
      eaten: [N] int8 kind eaten, 0 for nothing.
      red: to the eater. green: shared equally by all. blue: shared by the others. orange: shared equally by all.
    """
    count = eaten.shape[0]
    own_red = (eaten == RED).astype(jnp.float32)
    blues = (eaten == BLUE).astype(jnp.float32)
    shared = green * jnp.sum(eaten == GREEN) + orange * jnp.sum(eaten == ORANGE)
    from_others = jnp.sum(blues) - blues
    return red * own_red + shared / count + blue * from_others / (count - 1)


def by_kind(kind: Array, values: tuple[Any, Any, Any, Any], dtype: Any) -> Array:
    """[...] the value of each kind (red, green, blue, orange); 0 for nothing."""
    result = jnp.zeros(kind.shape, dtype)
    for position, value in enumerate(values, start=1):
        result = jnp.where(kind == position, jnp.asarray(value, dtype), result)
    return result


def age(kind: Array, life: Array) -> tuple[Array, Array]:
    """[M] kind and life one step later; a mushroom of life 1 perishes."""
    left = jnp.maximum(life - 1, 0).astype(life.dtype)
    return jnp.where((life == 1) & (kind > 0), NOTHING, kind), left


def vanish(kind: Array, eaten: Array, chance: Array, probability: Any) -> Array:
    """[M] int8 kinds after each orange that was eaten has made every red vanish with `probability`.

    Args:
      kind: [M] int8. eaten: [N] int8. chance: [M] float32, uniform in [0, 1).
    """
    oranges = jnp.sum(eaten == ORANGE)
    survive = (1 - jnp.asarray(probability, jnp.float32)) ** oranges
    return jnp.where((kind == RED) & (chance >= survive), NOTHING, kind)


def release(eaten: Array, free: Array, word: Array) -> Array:
    """Where the spores of what was eaten grow: [M] int8 kinds, 0 for nothing.

    Every chance that comes true picks a uniform free cell, independently of the others; where two pick the same cell,
    one mushroom grows (the kind that stands later in red, green, blue, orange).

    Args:
      eaten: [N] int8. free: [M] bool, empty cells without an avatar.
      word: [N, 10] uint32 uniform words; the upper half decides whether, the lower half where.
    """
    chosen = jnp.zeros(word.shape, jnp.float32)
    for kind in (RED, GREEN, BLUE, ORANGE):
        chosen = jnp.where((eaten == kind)[:, None], SPORES[kind], chosen)
    comes_true = (word >> np.uint32(16)).astype(jnp.float32) < chosen * np.float32(65536)
    order = count_up(free)
    pick = (((word & np.uint32(0xFFFF)) * order[-1].astype(jnp.uint32)) >> np.uint32(16)).astype(jnp.int16)
    pick = jnp.where(comes_true, pick + 1, -1).reshape(-1)
    grown = np.tile(GROWN, eaten.shape[0])
    # `order` first reaches a number at a free cell: only that one counts.
    here = (order == pick[:, None]) & free
    return jnp.max(jnp.where(here, grown[:, None], NOTHING), axis=0)


def count_up(free: Array) -> Array:
    """[M] int16: how many of the cells up to and with each are True. `free`: [M] bool."""
    size = free.shape[0]
    rows = -(-size // 32)
    # Bits packed into words and counted below a mask: a cumulative sum under `vmap` costs M^2 on a CPU.
    bits = jnp.pad(free, (0, 32 * rows - size)).reshape(rows, 32).astype(jnp.uint32)
    packed = jnp.sum(bits << np.arange(32, dtype=np.uint32), axis=1, dtype=jnp.uint32)
    mask = np.uint32(0xFFFFFFFF) >> np.arange(31, -1, -1, dtype=np.uint32)
    within = jax.lax.population_count(packed[:, None] & mask).astype(jnp.int16)
    earlier = jnp.sum(jnp.where(np.tri(rows, k=-1, dtype=bool), within[:, -1], jnp.int16(0)), axis=1, dtype=jnp.int16)
    return (within + earlier[:, None]).reshape(-1)[:size]


def zapped(hits: Array, marked: Array, frozen: Array, freeze: Any, memory: Any) -> tuple[Array, Array, Array]:
    """What the zaps of a step do to the agents.

    The first hit freezes and marks; a hit while marked removes (so do two hits in one step).

    Args:
      hits: [N] integers, beams that hit each agent. marked: [N] int8, frozen: [N] int8: steps left.
      freeze: steps that a first hit freezes. memory: steps that a mark lasts.
    Returns:
      removed: [N] bool; marked: [N] int8; frozen: [N] int8, at least `freeze` after a first hit. Both are 0 for who is
      removed.
    """
    removed = ((hits >= 1) & (marked > 0)) | (hits >= 2)
    first = (hits == 1) & ~removed
    marked = jnp.where(first, jnp.asarray(memory, jnp.int8), marked)
    frozen = jnp.where(first, jnp.maximum(frozen, jnp.asarray(freeze, jnp.int8)), frozen)
    nothing = jnp.int8(0)
    return removed, jnp.where(removed, nothing, marked), jnp.where(removed, nothing, frozen)
