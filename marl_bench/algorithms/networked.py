"""What all learners with networks of their own sizes share: parameter slots, networks, checks, evaluation.

`NetworkLearner` has the fields; `OnlineLearner` and `OfflineLearner` add where their experience comes from.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import evaluation
from marl_bench.algorithms import slots
from marl_bench.algorithms.networks import ACTIVATIONS, KERNEL, Network
from marl_bench.environment import Environment, check_choice, check_integer, check_range, field
from marl_bench.learner import Learner, world_of


def is_discrete(env: Environment) -> bool:
    """Whether the world's actions are numbered."""
    return hasattr(env.action_spec, "num_values")


def action_size(env: Environment) -> int:
    """A, number of discrete actions, or D, entries of a continuous one."""
    return env.num_actions if is_discrete(env) else env.action_spec.shape[-1]


def require_global_state(env: Environment, learner: str, instead: str) -> int:
    """S, size of the world's global state.

    Raises:
      ValueError: when the world has none, naming the learner `instead` that needs none.
    """
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.eval_shape(lambda key: env.global_state(env.reset(key)[0]), key).shape[0]
    except NotImplementedError:
        name = type(env.unwrapped).__name__
        raise ValueError(f"{learner} needs a global state, {name} offers none; use learner={instead}") from None


@struct.dataclass
class NetworkLearner(Learner):
    """Base of the learners with networks.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    sharing: str = field(
        "shared",
        static=True,
        doc="who shares parameters: shared (all), independent (nobody), types (agents of one role)",
    )
    groups: tuple[int, ...] | None = field(
        None, static=True, doc="parameter slot of each agent, 0, 1, ...; overrides sharing"
    )
    agent_id: bool = field(False, static=True, doc="append a one-hot agent id to what the network reads")
    hidden_sizes: tuple[int, ...] = field((64, 64), static=True, doc="widths of the dense layers", unit="units")
    activation: str = field("tanh", static=True, doc=f"of the dense layers: {', '.join(ACTIVATIONS)}")
    channels: tuple[int, ...] = field(
        (), static=True, doc="channels of 3 x 3 convolutions, for views [H, W, C]; () flattens the view"
    )
    recurrent_size: int = field(0, static=True, doc="width of the GRU behind the dense layers; 0: no memory")
    evaluation_episodes: int = field(256, static=True, doc="episodes of the final evaluation; fresh ones")
    evaluation_greedy: bool = field(False, static=True, doc="evaluate the most likely action, not a sampled one")
    discount: float = field(0.99, doc="discount factor [gamma], in [0, 1]")
    learning_rate: float = field(2.5e-4, doc="Adam step size")
    max_grad_norm: float = field(0.5, doc="global L2 norm a gradient is clipped to, per parameter slot")

    def __post_init__(self) -> None:
        check_integer(self, "evaluation_episodes", 1)
        check_integer(self, "recurrent_size", 0)
        check_choice(self, "sharing", slots.SHARING)
        check_choice(self, "activation", tuple(ACTIVATIONS))
        for name in ("hidden_sizes", "channels"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(size, int) and size > 0 for size in value):
                raise TypeError(f"{name}={value!r}: must be a tuple of positive integers (field of {self._kind})")
        if self.groups is not None and not (
            isinstance(self.groups, tuple) and all(isinstance(slot, int) and slot >= 0 for slot in self.groups)
        ):
            raise TypeError(f"groups={self.groups!r}: must be a tuple of slots 0, 1, ... (field of {self._kind})")
        for name in ("agent_id", "evaluation_greedy"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r}: must be True or False (field of {self._kind})")
        check_range(self, "discount", 0.0, 1.0)
        for name in ("learning_rate", "max_grad_norm"):
            check_range(self, name, 0.0, open_low=True)

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def validate(self, environment: Any) -> None:
        """Check that the world's views, inputs and agents fit this learner. `environment`: the world, or a source with one."""
        environment = world_of(environment)
        name = type(environment.unwrapped).__name__
        if environment.learner_inputs:
            wanted = ", ".join(environment.learner_inputs)
            raise ValueError(f"{name} asks its learner for {wanted}, which {self._kind} has not; use learner=dqn")
        slots.slot_of_agent(self.sharing, self.groups, environment)
        if self.channels:
            shape, least = environment.observation_shape, (KERNEL - 1) * len(self.channels) + 1
            if len(shape) != 3 or min(shape[:2]) < least:
                raise ValueError(
                    f"channels={self.channels}: {name} shows views of shape {shape}; {len(self.channels)} convolutions need "
                    f"[H, W, C] with H and W >= {least}; use channels=() (fields of {self._kind})"
                )

    # --- shared parts ----------------------------------------------------------------------------

    def slots(self, env: Environment) -> tuple[int, ...]:
        """[N] parameter slot of each agent."""
        return slots.slot_of_agent(self.sharing, self.groups, env)

    def network(
        self, shape: tuple[int, ...], num_agents: int, outputs: int, output_scale: float = 1.0, extra: int = 0
    ) -> Network:
        """The network of this learner's sizes over one agent's view.

        Args:
          shape: of the view. num_agents: N, width of the one-hot id, if there is one.
          outputs: K. output_scale: gain of the output layer. extra: further entries beside the view.
        """
        return Network(
            input_shape=shape,
            outputs=outputs,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            channels=self.channels,
            recurrent_size=self.recurrent_size,
            output_scale=output_scale,
            extra=extra + (num_agents if self.agent_id else 0),
        )

    def ids(self, num_agents: int) -> jax.Array:
        """[N, N or 0] float32: what `agent_id` appends to each agent's view."""
        return jnp.eye(num_agents) if self.agent_id else jnp.zeros((num_agents, 0))

    def init_slots(self, network: Network, key: jax.Array, env: Environment) -> Any:
        """Parameters with a leading axis of slots."""
        return jax.vmap(network.init)(jax.random.split(key, slots.num_slots(self.slots(env))))

    def initial_memory(self, num_agents: int) -> jax.Array:
        """[N, recurrent_size] float32 zeros."""
        return jnp.zeros((num_agents, self.recurrent_size))

    def evaluate(self, state: Any, source: Any) -> dict[str, jax.Array]:
        """`evaluation_episodes` fresh episodes of the trained policy; see `evaluation.summary`."""
        key = jax.random.fold_in(state.key, np.uint32(2**32 - 1))
        episodes = evaluation.play(
            world_of(source), self, state.params, key, self.evaluation_episodes, greedy=self.evaluation_greedy
        )
        return evaluation.summary(episodes)
