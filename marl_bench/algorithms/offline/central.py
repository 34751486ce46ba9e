"""What `cfcql_continuous` and `macql_continuous` share: twin critics that see all views (or the global state) and all actions.

As released by Shao et al. 2023, on MATD3: policies are improved with the others' recorded actions.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.networked import require_global_state
from marl_bench.algorithms.offline.cql_continuous import CQLContinuous
from marl_bench.algorithms.offline.minibatch import Minibatch
from marl_bench.environment import Environment, check_choice, field

INPUTS = ("views", "state")
REWARDS = ("first", "mean")
POLICY_UPDATES = ("counterfactual", "joint")


@struct.dataclass
class CentralCQL(CQLContinuous):
    """Base of `CFCQLContinuous` and `MACQLContinuous`, which differ in `soft_value`. Raises as `CQLContinuous`."""

    critic_input: str = field(
        "views", static=True, doc="the critic reads all agents' views, or the global state, beside all actions"
    )
    reward: str = field(
        "first", static=True, doc="the team's reward: that of the first agent (as released), or the mean of the agents'"
    )
    policy_update: str = field(
        "counterfactual",
        static=True,
        doc="others' actions in a policy's step: counterfactual (recorded), joint (their policies')",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "critic_input", INPUTS)
        check_choice(self, "reward", REWARDS)
        check_choice(self, "policy_update", POLICY_UPDATES)

    @property
    def central(self) -> bool:
        """True."""
        return True

    def validate(self, environment: Any) -> None:
        """Also check that the critic finds its input."""
        super().validate(environment)
        if self.critic_input == "state":
            self.require_states(environment, f"{self.name} learner.critic_input=views")

    def read_size(self, env: Environment) -> int:
        """S, numbers that the judge sees."""
        if self.critic_input == "state":
            return require_global_state(env, self.name, f"{self.name} learner.critic_input=views")
        return env.num_agents * math.prod(env.observation_shape)

    def seen(self, view: jax.Array, state: jax.Array | None) -> jax.Array:
        """[1, n, S] what the judge sees."""
        if self.critic_input == "views":
            return view.reshape(1, view.shape[0], -1)
        if state is None:
            raise ValueError(
                f"critic_input='state': this data set has no global states; use learner.critic_input=views (field of {self._kind})"
            )
        return state[None]

    def paid(self, reward: jax.Array, discount: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[1, n] the team's reward, and the discount: 0 where the game ended, for the first agent or for all."""
        if self.reward == "first":
            return reward.T[:1], discount.T[:1]
        return jnp.mean(reward, axis=1)[None], jnp.max(discount, axis=1)[None]

    def policy_value(self, critic: Any, agents: tuple[int, ...], batch: Minibatch, new: jax.Array) -> jax.Array:
        """See `OfflineTD3.policy_value`."""
        if self.policy_update == "counterfactual":
            return super().policy_value(critic, agents, batch, new)
        value = self.values(critic, agents, batch.read, self.joint(new[:, 0]))
        return jnp.broadcast_to(value, (len(agents), 1, value.shape[-1]))
