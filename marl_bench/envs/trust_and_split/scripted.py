"""Scripted policies of trust-and-split: what to say and what to claim.

Tokens mean nothing to the world. These policies use 1 + hand for a hand and 0 for silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.trust_and_split import rules


def truthful(hands: jax.Array) -> jax.Array:
    """[2] tokens that name the own hand."""
    return 1 + hands.astype(jnp.int32)


def lying(hands: jax.Array) -> jax.Array:
    """[2] tokens that name the hand that beats the own one."""
    return 1 + (hands.astype(jnp.int32) + 1) % 3


def silent(hands: jax.Array) -> jax.Array:
    """[2] silence."""
    return jnp.zeros_like(hands, jnp.int32)


def trusting(hands: jax.Array, heard: jax.Array) -> jax.Array:
    """[2] claims: all with a hand that beats the one heard, nothing with one that loses, else half.

    Args:
      hands: [2] own hands. heard: [2] the other's last token, -1 if there is none.
    """
    claimed = heard - 1
    known = (claimed >= 0) & (claimed < 3) & (claimed != hands)
    decided = jnp.where(rules.wins(hands, claimed), rules.COINS, 0)
    return jnp.where(known, decided, rules.COINS // 2)


def everything(hands: jax.Array, heard: jax.Array) -> jax.Array:
    """[2] claims of all coins."""
    del heard
    return jnp.full_like(hands, rules.COINS, jnp.int32)


def half(hands: jax.Array, heard: jax.Array) -> jax.Array:
    """[2] claims of half the coins."""
    del heard
    return jnp.full_like(hands, rules.COINS // 2, jnp.int32)


STYLES: dict[str, tuple[Callable[..., jax.Array], Callable[..., jax.Array]]] = {
    "cooperate": (truthful, trusting),
    "defect": (truthful, everything),
    "equal": (silent, half),
    "liar": (lying, everything),
}
"""Name -> (what to say, what to claim)."""


def policies(turns: int, vocabulary: int) -> dict[str, ScriptedPolicy]:
    """The styles as policies of a game with `turns` messages per agent and `vocabulary` tokens."""

    def policy_of(speak: Callable[..., jax.Array], claim: Callable[..., jax.Array]) -> ScriptedPolicy:
        def policy(state: Any, observation: Any, key: jax.Array) -> jax.Array:
            del observation, key
            hands = state.hands.astype(jnp.int32)
            heard = state.tokens[::-1, -1].astype(jnp.int32) if turns else jnp.full(2, -1, jnp.int32)
            splits = state.phase == 2 * turns
            turn = (state.round + state.phase) % 2
            spoken = jnp.where(jnp.arange(2) == turn, speak(hands), 0)
            return jnp.where(splits, vocabulary + claim(hands, heard), spoken).astype(jnp.int32)

        return policy

    return {name: policy_of(*style) for name, style in STYLES.items()}
