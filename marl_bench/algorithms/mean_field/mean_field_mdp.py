"""The Markov decision process of a planner whose action is a decision rule for a whole swarm.

State: the mean field, seen through its features. Action: the parameters xi of a decision rule, the same for all agents. Transition:
every agent acts by that rule on its own view, with noise of its own, and the swarm moves on. Reward: the team's.
Source: Cui et al. 2024 (the limit of many agents is such a process; verified in the abstract), here with N agents in place of the limit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.algorithms.mean_field.decision_rules import DecisionRule
from marl_bench.environment import Environment, TimeStep
from marl_bench.mean_field import Features
from marl_bench.random import normal, unit_interval, words

NOISE, CHOICE = 0, 1
"""Streams of random words."""

TIMES = ("none", "scalar", "one_hot")


@struct.dataclass
class MDPState:
    """State of `MeanFieldMDP`.

    Attributes:
      inner: state of the swarm.
      view: [N, d] what its agents see.
      step_count: [] int32.
      key: [] typed PRNG key of the agents' noise.
    """

    inner: Any
    view: jax.Array
    step_count: jax.Array
    key: jax.Array


@struct.dataclass
class MeanFieldMDP(Environment):
    """One agent, the planner, before a swarm.

    Attributes:
      environment: the swarm.
      features: of the mean field.
      rule: what a planner's action parametrises.
      time: what is appended to the features: "none", "scalar" (the share of the horizon), "one_hot".
    """

    environment: Any
    features: Features
    rule: DecisionRule
    time: str = struct.field(pytree_node=False, default="none")

    @property
    def num_agents(self) -> int:
        """1."""
        return 1

    @property
    def num_actions(self) -> int:
        """0: actions are vectors."""
        return 0

    @property
    def fixed_horizon(self) -> int | None:
        """That of the swarm."""
        return self.environment.fixed_horizon

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(K,): the features and the time."""
        time = {"none": 0, "scalar": 1, "one_hot": self.fixed_horizon}[self.time]
        return (self.features.size(self.environment.mean_field_axes) + time,)

    @property
    def action_spec(self) -> specs.Array:
        """[1, M * D * 2] float32, unbounded."""
        return specs.Array((1, self.rule.size), np.float32, "action")

    @property
    def metric_units(self) -> dict[str, str]:
        """Those of the swarm."""
        return self.environment.metric_units

    def reset(self, key: jax.Array) -> tuple[MDPState, TimeStep]:
        """Start an episode of the swarm. `key`: [] typed PRNG key."""
        key_swarm, key_noise = jax.random.split(key)
        inner, timestep = self.environment.reset(key_swarm)
        state = MDPState(inner, timestep.observation.agents_view, jnp.int32(0), key_noise)
        observation = self.observe_view(self.view(inner, state.step_count)[None], state.step_count)
        return state, self.restart(observation, timestep.extras["metrics"])

    def step(self, state: MDPState, actions: jax.Array) -> tuple[MDPState, TimeStep]:
        """All agents act by one rule. `actions`: [1, M * D * 2] floats."""
        agents = self.environment.num_agents
        size = self.rule.low.shape[0]
        noise = normal(words(state.key, state.step_count, NOISE, agents * size)).reshape(agents, size)
        uniform = None
        if self.rule.mix == "components":
            uniform = unit_interval(words(state.key, state.step_count, CHOICE, agents))
        chosen = self.rule.sample(actions[0], state.view, noise, uniform)
        inner, timestep = self.environment.step(state.inner, chosen)
        following = MDPState(inner, timestep.observation.agents_view, state.step_count + 1, state.key)
        observation = self.observe_view(self.view(inner, following.step_count)[None], following.step_count)
        return following, TimeStep(
            step_type=timestep.step_type,
            reward=jnp.mean(timestep.reward, keepdims=True),
            discount=jnp.mean(timestep.discount, keepdims=True),
            observation=observation,
            extras={"metrics": timestep.extras["metrics"]},
        )

    def view(self, inner: Any, step_count: jax.Array) -> jax.Array:
        """[K] what the planner reads of a swarm's state."""
        return self.timed(
            self.features(self.environment.mean_field_axes, self.environment.mean_field(inner)), step_count
        )

    def timed(self, features: jax.Array, step_count: jax.Array) -> jax.Array:
        """[K] features and the time."""
        if self.time == "none":
            return features
        horizon = self.environment.fixed_horizon
        time = step_count[None] / horizon if self.time == "scalar" else jax.nn.one_hot(step_count, horizon)
        return jnp.concatenate([features, time])
