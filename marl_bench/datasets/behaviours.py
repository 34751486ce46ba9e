"""Behaviours that record data and are known in closed form: scripts with random actions in between."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.datasets.collect import Act
from marl_bench.environment import Environment, Observation, ScriptedPolicy
from marl_bench.envs.equal_line import scripted as equal_line
from marl_bench.scripted import random_policy


def noisy(act: Act, environment: Environment, epsilon: float) -> Act:
    """`act`, but each agent on its own plays a uniform legal action with probability `epsilon` at every step."""
    uniform: ScriptedPolicy = random_policy(environment)

    def play(params: Any, state: Any, observation: Observation, memory: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        key_act, key_coin, key_action = jax.random.split(key, 3)
        actions, memory = act(params, state, observation, memory, key_act)
        coin = jax.random.bernoulli(key_coin, epsilon, actions.shape[:1])
        coin = coin.reshape(-1, *[1] * (actions.ndim - 1))
        return jnp.where(coin, uniform(state, observation, key_action), actions), memory

    return play


def scaled_slots(num_agents: int, low: float, together: bool = True) -> tuple[Act, Any]:
    """In `equal_line`: agent i walks to rho i L / (n - 1), rho uniform in [low, 1] in each episode.

    Most of the data is far from the best, so imitating its most likely action is not enough (specification of CFCQL, section 10.2).

    Args:
      num_agents: n.
      low: smallest rho, in (0, 1]. together: one rho for all agents, else one for each (beta then is a product over agents).
    """

    def act(params: Any, state: Any, observation: Observation, memory: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        del params, observation
        drawn = jax.random.uniform(key, (1 if together else num_agents,), minval=low, maxval=1.0)
        scale = jnp.where(memory > 0, memory, drawn)
        return equal_line.towards(state.x, scale * jnp.asarray(equal_line.slots(num_agents))), scale

    return act, np.zeros(num_agents, np.float32)
