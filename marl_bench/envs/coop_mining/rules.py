"""Rules of cooperative mining on plain arrays: growth of ore, who mines it, who is paid.

N agents, M cells. A cell holds `kind` (`NONE`, `IRON`, `GOLD`), `miner` (the agent that has begun to mine its gold,
else -1) and `countdown` (steps until that is forgotten). One miner takes iron; gold needs two within the window.
Source: Melting Pot 2, `coop_mining`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

NONE, IRON, GOLD = np.int8(0), np.int8(1), np.int8(2)
NOBODY = np.int8(-1)

_FIRST = np.uint32(0xFFFFFFFF)


def grow(kind: Array, blocked: Array, chance: Array, iron_rate: Any, gold_rate: Any) -> Array:
    """[M] int8 kinds after new ore has appeared on empty cells: iron, or else (independently) gold.

    Args:
      kind: [M] int8.
      blocked: [M] bool, cells where nothing may grow (no site, or an avatar on it).
      chance: [M] float32, uniform in [0, 1).
      iron_rate, gold_rate: probabilities in a step.
    """
    gold_until = iron_rate + (1 - iron_rate) * gold_rate
    new = jnp.where(chance < iron_rate, IRON, jnp.where(chance < gold_until, GOLD, NONE))
    return jnp.where((kind == NONE) & ~blocked, new, kind)


def forget(miner: Array, countdown: Array) -> tuple[Array, Array]:
    """Count down by one step; where the window is over, the first miner is forgotten."""
    left = jnp.maximum(countdown - 1, 0).astype(jnp.int8)
    return jnp.where(left == 0, NOBODY, miner), left


class Mined(NamedTuple):
    """What the shots of a step do.

    Attributes:
      iron: [N] bool, agents that take iron.
      gold: [N] int8, gold that each agent has a share in (the second shot may come from another agent).
      emptied: [N] bool, the ore that the agent's shot hits is gone afterwards (the same for all who hit it).
      miner: [N] int8, who has begun to mine the ore hit, if it stays; else -1.
    """

    iron: Array
    gold: Array
    emptied: Array
    miner: Array


def mine(target: Array, kind: Array, miner: Array, priority: Array) -> Mined:
    """Settle all shots of a step; where there are more miners than an ore needs, priority decides.

    Args:
      target: [N] integers, cell of the ore that each agent's shot hits; -1 for none.
      kind: [N] int8 of that ore. miner: [N] int8, who began to mine it (-1: nobody).
      priority: [N] uint32 below 2^32 - 1, distinct and positive; higher goes first.
    """
    agents = np.arange(target.shape[0], dtype=np.int8)
    hits = target >= 0
    same = (target[:, None] == target[None, :]) & hits[:, None] & hits[None, :]
    rank = jnp.where(same, priority[None, :], np.uint32(0))
    leads = hits & (jnp.max(rank, axis=1) == priority)
    # The agent that began earlier goes before everybody who hits the ore now.
    rank = jnp.where((miner[:, None] == agents) & hits[:, None], _FIRST, rank)
    highest = jnp.max(rank, axis=1, keepdims=True)
    second = jnp.max(jnp.where(rank == highest, np.uint32(0), rank), axis=1, keepdims=True)
    is_gold = hits & (kind == GOLD)
    complete = is_gold & (second[:, 0] > 0)
    share = (rank >= jnp.maximum(second, 1)) & (complete & leads)[:, None]
    begun = jnp.max(jnp.where((rank == highest) & (rank > 0), agents, NOBODY), axis=1)
    emptied = (hits & (kind == IRON)) | complete
    return Mined(
        iron=leads & (kind == IRON),
        gold=jnp.sum(share, axis=0, dtype=jnp.int8),
        emptied=emptied,
        miner=jnp.where(is_gold & ~complete, begun, NOBODY),
    )


def apply(
    kind: Array, miner: Array, countdown: Array, target: Array, mined: Mined, window: Any
) -> tuple[Array, Array, Array]:
    """Cells after the shots: [M] kind, miner and countdown (`window` where an agent has just hit gold and not got it).

    Args:
      kind: [M] int8. miner: [M] int8. countdown: [M] int8.
      target: [N] integers, cell that each agent hits; -1 for none.
      mined: see `mine`. window: steps that a first miner is remembered.
    """
    cells = np.arange(kind.shape[0], dtype=np.int16)
    at = target.astype(jnp.int16)[:, None] == cells
    emptied = jnp.any(at & mined.emptied[:, None], axis=0)
    begun = jnp.max(jnp.where(at, mined.miner[:, None], NOBODY), axis=0)
    started = begun >= 0
    kind = jnp.where(emptied, NONE, kind)
    miner = jnp.where(emptied, NOBODY, jnp.where(started, begun, miner))
    countdown = jnp.where(emptied, 0, jnp.where(started, jnp.asarray(window, jnp.int8), countdown)).astype(jnp.int8)
    return kind, miner, countdown


def distinct(word: Array) -> Array:
    """Distinct positive uint32 priorities below 2^32 - 1 from uniform words [N], N <= 127; the low byte tells who."""
    index = np.arange(word.shape[0], dtype=np.uint32)
    return (word & np.uint32(0xFFFFFF00)) | np.uint32(2) * index | np.uint32(1)


def stretch(drawn: Array, num: int) -> Array:
    """[num] uint32 words from half as many: each has 16 bits of its own on top, those of another entry below.

    Every entry is uniform; two entries depend on each other only through bits that a comparison looks at with
    probability 2^-16 (see `marl_bench.random.windowed_words`).

    Args:
      drawn: [(num + 1) // 2] uint32 uniform words. num: at least 2.
    """
    halves = jnp.concatenate([drawn & np.uint32(0xFFFF), drawn >> np.uint32(16)])[:num]
    shift = num // 2
    other = jnp.concatenate([halves[shift:], halves[:shift]])
    return (halves << np.uint32(16)) | other
