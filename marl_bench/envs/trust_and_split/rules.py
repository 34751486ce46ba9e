"""Rules of trust-and-split on plain arrays, and the expected payoffs of fixed ways to play.

Source: Trust-and-Split of Piche et al. 2025 (arXiv 2511.19405), where language models exchange free text; here messages are
tokens.
Hands: 0 rock, 1 paper, 2 scissors; paper beats rock, scissors beat paper, rock beats scissors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

COINS = 10
"""Coins on the table; an agent claims 0 ... COINS of them."""

HANDS = np.array([[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]], np.int8)
"""[6, 2] ordered pairs of different hands: every deal is one of them, uniformly."""


def wins(own: Any, other: Any) -> Any:
    """Whether hand `own` [...] beats `other` [...] (different hands)."""
    return (own - other) % 3 == 1


def values(hands: jax.Array, high: Any, low: Any) -> jax.Array:
    """[2] float32 worth of one coin to each agent, for hands [2]: `high` to the winner, `low` to the loser."""
    first = wins(hands[0], hands[1])
    return jnp.where(jnp.stack([first, ~first]), jnp.float32(high), jnp.float32(low))


def shares(claims: jax.Array) -> jax.Array:
    """[2] float32 coins received for claims [2]: 10 a_i / max(10, a_0 + a_1)."""
    claims = claims.astype(jnp.float32)
    return COINS * claims / jnp.maximum(COINS, jnp.sum(claims))


def expected_payoffs(first: Callable, second: Callable, high: float = 10.0, low: float = 1.0) -> np.ndarray:
    """[2] float64 expected points per round, by enumerating the six deals.

    Args:
      first: claim of agent 0 as a function of (own hand, other's hand); what it may use of the other's hand is what truthful
        talk would have told it.
      second: the same for agent 1.
      high: worth of a coin to the winner. low: to the loser.
    """
    total = np.zeros(2)
    for own, other in HANDS.astype(int):
        claims = np.array([first(own, other), second(other, own)], float)
        worth = np.array([high, low] if wins(own, other) else [low, high])
        total += worth * COINS * claims / max(COINS, claims.sum())
    return total / len(HANDS)


def honest(own: int, other: int) -> int:
    """Claim everything with the winning hand, nothing with the losing one."""
    return COINS if wins(own, other) else 0


def greedy(own: int, other: int) -> int:
    """Always claim everything."""
    del own, other
    return COINS


def equal(own: int, other: int) -> int:
    """Always claim half."""
    del own, other
    return COINS // 2
