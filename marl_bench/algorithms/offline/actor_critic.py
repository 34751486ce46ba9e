"""Critics of single agents that read the global state: what `iql_offline`, `awac`, `icq` and `omar_discrete` share.

A critic reads an agent's view, its number and the global state, and does not remember (as released by Shao et al. 2023).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.networked import action_size, require_global_state
from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.offline.policies import PolicyLearner
from marl_bench.datasets.sampling import Sequence
from marl_bench.environment import Environment, check_choice, field

INPUTS = ("state", "views")
TWINS = 2


@struct.dataclass
class ActorCriticLearner(PolicyLearner):
    """Base of the learners of policies with critics. Raises as `PolicyLearner`."""

    critic_input: str = field(
        "state", static=True, doc="critics read an agent's view beside the global state (state) or alone (views)"
    )
    critic_sizes: tuple[int, ...] = field((256, 256), static=True, doc="widths of the critics' layers", unit="units")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "critic_input", INPUTS)
        sizes = self.critic_sizes
        if not isinstance(sizes, tuple) or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise TypeError(f"critic_sizes={sizes!r}: must be a tuple of positive integers (field of {self._kind})")

    @property
    def without_state(self) -> str:
        """The learner that needs no global state, as one would type it."""
        return f"{self.name} learner.critic_input=views"

    @property
    def reads_state(self) -> bool:
        """Whether anything reads the global state."""
        return self.critic_input == "state"

    def validate(self, environment: Any) -> None:
        """Also check that the critics find their input."""
        super().validate(environment)
        if self.reads_state:
            self.require_states(environment, self.without_state)

    def critic(self, env: Environment, outputs: int, action: bool = False) -> Network:
        """What reads an agent's view, number and, perhaps, the global state and an action (D numbers)."""
        size = math.prod(env.observation_shape) + self.ids(env.num_agents).shape[1]
        if self.critic_input == "state":
            size += require_global_state(env, self.name, self.without_state)
        size += action_size(env) if action else 0
        return Network((size,), outputs, self.critic_sizes, self.activation)

    def init_twins(self, key: jax.Array, env: Environment, network: Network) -> Any:
        """Parameters [G, C, ...] of two critics."""
        keys = jax.random.split(key, (slots.num_slots(self.slots(env)), TWINS))
        return jax.vmap(jax.vmap(network.init))(keys)

    def read(self, env: Environment, batch: Sequence) -> jax.Array:
        """[T + 1, R, N, I] what critics read, but for actions."""
        shape = batch.view.shape[:3]
        ids = self.ids(env.num_agents)
        parts = [batch.view.reshape(*shape, -1), jnp.broadcast_to(ids, (*shape, ids.shape[1]))]
        if self.critic_input == "state":
            assert batch.state is not None
            state = batch.state[:, :, None]
            parts.append(jnp.broadcast_to(state, (*shape, state.shape[-1])))
        return jnp.concatenate(parts, axis=-1)

    def judged(self, params: Any, env: Environment, rows: jax.Array) -> jax.Array:
        """[T, R, N, K] outputs of networks with parameters [G, ...] in rows [T, R, N, I]."""
        outputs, flags = params["output"]["b"].shape[-1], jnp.zeros(rows.shape[:2], bool)
        network = Network(rows.shape[3:], outputs, self.critic_sizes, self.activation)
        memory, nothing = jnp.zeros((*rows.shape[1:3], 0)), jnp.zeros((rows.shape[2], 0))
        return slots.unroll_rows(network, self.slots(env), params, memory, rows, nothing, flags)[1]

    def q_values(self, params: Any, env: Environment, read: jax.Array) -> jax.Array:
        """[C, T, R, N, K] by critics [G, C, ...] that read `read`, which ends in the action if that is a vector."""
        return jax.vmap(lambda one: self.judged(one, env, read), in_axes=1)(params)
