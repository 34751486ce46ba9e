"""Multi-agent PPO: `mappo`. The critic reads the global state and which agent it judges (Yu et al. 2022).

Training is centralised, execution is not: `act` sees the agent's own view only. As in the paper values are learned in units of
the running scale of their targets. The critic appends a one-hot agent id to the state, so that rewards may differ.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.networked import require_global_state
from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.ppo import PPO
from marl_bench.environment import Environment, field


@struct.dataclass
class MAPPO(PPO):
    """PPO with a critic on the global state. Raises as `PPO`."""

    normalize_values: bool = field(True, static=True, doc="learn values in units of the running scale of the targets")

    @property
    def reads_state(self) -> bool:
        """True."""
        return True

    def validate(self, environment: Environment) -> None:
        """Also check that the world has a global state."""
        super().validate(environment)
        require_global_state(environment, "mappo", "ippo")

    def critic(self, env: Environment) -> Network:
        """[1] value of an agent from the state and a one-hot id."""
        size = require_global_state(env, "mappo", "ippo")
        network = self.network((size,), env.num_agents, 1)
        return dataclasses.replace(network, channels=(), extra=env.num_agents)

    def critic_inputs(self, view: jax.Array, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The state for every agent, and the ids."""
        assert state is not None
        count = view.shape[2]
        return jnp.repeat(state[:, :, None], count, axis=2), jnp.eye(count)
