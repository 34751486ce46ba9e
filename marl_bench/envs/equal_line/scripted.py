"""Scripted policies of `equal_line`: walk to evenly spaced slots, with or without random actions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.equal_line import rules


def towards(x: jax.Array, target: jax.Array) -> jax.Array:
    """[n] int32 actions whose displacements bring positions [n] nearest to targets [n]."""
    return jnp.argmin(jnp.abs(x[:, None] + rules.DISPLACEMENTS - target[:, None]), axis=1).astype(jnp.int32)


def slots(num_agents: int) -> np.ndarray:
    """[n] float32 evenly spaced targets i L / (n - 1)."""
    return np.linspace(0.0, rules.length(num_agents), num_agents).astype(np.float32)


def slot(state: Any, observation: Any, key: jax.Array) -> jax.Array:
    """Agent i walks to slot i: a shared network that knows the agent's id can play it."""
    del observation, key
    return towards(state.x, jnp.asarray(slots(state.x.shape[0])))


def slot_by_rank(state: Any, observation: Any, key: jax.Array) -> jax.Array:
    """The agent with the k-th smallest position walks to slot k, so that nobody overtakes (ties: lower index first)."""
    del observation, key
    x = state.x
    index = np.arange(x.shape[0])
    before = (x[None, :] < x[:, None]) | ((x[None, :] == x[:, None]) & (index[None, :] < index[:, None]))
    return towards(x, jnp.asarray(slots(x.shape[0]))[before.sum(axis=1)])


def stay(state: Any, observation: Any, key: jax.Array) -> jax.Array:
    """Nobody moves."""
    del observation, key
    return jnp.zeros(state.x.shape[0], jnp.int32)


def noisy(policy: ScriptedPolicy, epsilon: Any) -> ScriptedPolicy:
    """Each agent on its own plays a uniform action with probability `epsilon` at every step, else `policy`'s."""

    def play(state: Any, observation: Any, key: jax.Array) -> jax.Array:
        key_policy, key_coin, key_action = jax.random.split(key, 3)
        actions = policy(state, observation, key_policy)
        uniform = jax.random.randint(key_action, actions.shape, 0, len(rules.DISPLACEMENTS))
        return jnp.where(jax.random.bernoulli(key_coin, epsilon, actions.shape), uniform, actions)

    return play
