"""Scripted policies of matrix games: fixed actions, the best joint action, memory-one strategies."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.closed_forms.memory_one import MEMORY_ONE, MemoryOne


def constant(num_agents: int, action: int) -> ScriptedPolicy:
    """Every agent plays `action` at every step (clipped by the game where it has fewer)."""

    def policy(state: Any, observation: Any, key: jax.Array) -> jax.Array:
        del state, observation, key
        return jnp.full(num_agents, action, jnp.int32)

    return policy


def best_joint_action(payoff: jax.Array) -> ScriptedPolicy:
    """Play the joint action with the largest total payoff (the first of several).

    Args:
      payoff: [N, A_1, ..., A_N].
    """

    def policy(state: Any, observation: Any, key: jax.Array) -> jax.Array:
        del state, observation, key
        total = payoff.sum(axis=0)
        return jnp.stack(jnp.unravel_index(jnp.argmax(total), total.shape)).astype(jnp.int32)

    return policy


def memory_one(row: MemoryOne, column: MemoryOne, noise: Any = 0.0) -> ScriptedPolicy:
    """Agent 0 plays `row`, agent 1 `column`, in a repeated game of two agents with two actions each.

    Reads the last joint action from the state, so it plays under any view.

    Args:
      row: strategy of agent 0. column: strategy of agent 1.
      noise: [] probability that a prescribed action flips.
    """

    def policy(state: Any, observation: Any, key: jax.Array) -> jax.Array:
        del observation
        own = state.last_action.astype(jnp.int32)
        code = jnp.where(own < 0, 0, 1 + 2 * own + own[::-1])
        views = (code[:, None] == jnp.arange(5)).astype(jnp.float32)
        key_row, key_column = jax.random.split(key)
        return jnp.stack([row.act(views[0], key_row, noise), column.act(views[1], key_column, noise)])

    return policy


def memory_one_policies() -> dict[str, ScriptedPolicy]:
    """Each of the eight strategies of `MEMORY_ONE` against itself, by its name in lower case."""
    return {name.lower(): memory_one(strategy, strategy) for name, strategy in MEMORY_ONE.items()}
