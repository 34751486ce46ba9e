"""What the offline learners of policies share: acting, and how likely the recorded actions are.

Numbered actions: a softmax over the legal ones. Vectors: tanh of the network's output is the mean, in units of the world's bounds
(-1 the lower, 1 the upper one); a learner whose policy is a distribution has a standard deviation for each entry besides, the
same in all states.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.ddpg import action_bounds, in_bounds
from marl_bench.algorithms.distributions import Categorical, Normal
from marl_bench.algorithms.networked import action_size, is_discrete
from marl_bench.algorithms.offline.recurrent import OfflineState, RecurrentLearner, log_policy
from marl_bench.algorithms.value_based import picked
from marl_bench.datasets.sampling import Sequence
from marl_bench.environment import Environment, Observation
from marl_bench.learner import world_of

LOG_STD = (-5.0, 2.0)
"""Least and largest log standard deviation: actions that the data always repeat have no infinite density."""


@struct.dataclass
class PolicyLearner(RecurrentLearner):
    """Base of the learners of policies. Raises as `RecurrentLearner`."""

    @property
    def gaussian(self) -> bool:
        """Whether a policy over vectors has a standard deviation."""
        return True

    def validate(self, environment: Any) -> None:
        """Also check that actions that are vectors have finite bounds."""
        super().validate(environment)
        world = world_of(environment)
        if not is_discrete(world) and not all(np.isfinite(bound).all() for bound in action_bounds(world)):
            name = type(world.unwrapped).__name__
            raise ValueError(f"{self.name} needs bounded actions, those of {name} have no finite bounds")

    def init_policy(self, key: jax.Array, env: Environment) -> dict[str, Any]:
        """The networks "actor" and, if needed, "spread"."""
        networks = {"actor": self.init_agents(key, env, action_size(env))}
        if self.gaussian and not is_discrete(env):
            shape = (slots.num_slots(self.slots(env)), action_size(env))
            networks["spread"] = {"log_std": jnp.full(shape, -0.5)}
        return networks

    def first_state(self, networks: dict[str, Any], target: Any, key: jax.Array, env: Environment) -> OfflineState:
        """As in the base; `params` also has the bounds of vectors, "low" and "high" [N, D]."""
        state = super().first_state(networks, target, key, env)
        if not is_discrete(env):
            low, high = action_bounds(env)
            state.params.update(low=jnp.asarray(low), high=jnp.asarray(high))
        return state

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Each agent's action from its own view: the most likely one if greedy, else drawn from its policy."""
        outputs, remembered = self.step(params["actor"], params["slots"], memory, observation)
        mask = observation.action_mask
        if mask.shape[-1]:
            policy = Categorical.masked(outputs, mask)
            action = policy.mode() if greedy else policy.sample(jax.random.uniform(key, outputs.shape[:1]))
            return action, (remembered, action)
        action = jnp.tanh(outputs)
        if not greedy and "spread" in params:
            spread = jnp.exp(_bounded(params["spread"]["log_std"][params["slots"]]))
            action = jnp.clip(action + spread * jax.random.normal(key, action.shape), -1.0, 1.0)
        return in_bounds(action, params), (remembered, memory[1])

    def normal(self, networks: Any, env: Environment, outputs: jax.Array) -> Normal:
        """The policy over vectors from outputs [..., N, D]."""
        log_std = _bounded(networks["spread"]["log_std"][jnp.asarray(self.slots(env))])
        return Normal(jnp.tanh(outputs), jnp.broadcast_to(log_std, outputs.shape))

    def log_prob(self, networks: Any, env: Environment, outputs: jax.Array, batch: Sequence) -> jax.Array:
        """[T, R, N] log-likelihood of the recorded actions from the actors' outputs [T, R, N, K]."""
        if is_discrete(env):
            assert batch.mask is not None
            return picked(log_policy(outputs, batch.mask[:-1]), batch.action[:-1])
        return self.normal(networks, env, outputs).log_prob(in_units(batch.action[:-1], env))


def in_units(action: jax.Array, env: Environment) -> jax.Array:
    """[..., N, D] in units of the bounds, of the world's actions; what was recorded outside of them is cut."""
    low, high = action_bounds(env)
    return jnp.clip(2.0 * (action - low) / (high - low) - 1.0, -1.0, 1.0)


def _bounded(log_std: jax.Array) -> jax.Array:
    return jnp.clip(log_std, *LOG_STD)
