"""Parallelised Q-network: `pqn`. Q-learning without replay and without a target network (Gallici et al. 2024).

What keeps it stable is layer normalisation, many environments, and lambda returns. One iteration (`update`):

  1. T steps of B environments, epsilon-greedy;
  2. targets of all steps from the current network (Peng's Q(lambda), cut at episode ends);
  3. `epochs` times over the data in `minibatches` parts: the mean of (Q(s, a) - y)^2, one Adam step each.

With `mixing="vdn"` the sum of the agents' values is learned from the team's reward (Sunehag et al. 2018). A sample is one step of
one environment with all its agents; with a GRU it is the sequence of one environment, unrolled from the memory that it began with.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench import sharding
from marl_bench.algorithms import rollout, slots
from marl_bench.algorithms.rollout import World
from marl_bench.algorithms.sequence_replay import Sequences
from marl_bench.algorithms.shuffle import in_minibatches
from marl_bench.algorithms.value_based import TEAM_REWARD_DOC, ValueLearner
from marl_bench.environment import Environment, check_choice, check_integer, field
from marl_bench.learner import TrainState

MIXING = ("none", "vdn")


@struct.dataclass
class PQNState(TrainState):
    """Training state; `params` is {"q": [G, ...], "slots": [N] int32}.

    Attributes:
      opt_state: {"q": Adam state}.
      world: `World`.
    """

    opt_state: Any
    world: World


@struct.dataclass
class PQN(ValueLearner):
    """Q-learning from fresh steps only.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    num_envs: int = field(128, static=True, doc="copies of the environment stepped side by side [B]")
    num_steps: int = field(16, static=True, doc="steps of each copy between two updates [T]", unit="steps")
    epochs: int = field(4, static=True, doc="passes over the data of an update")
    minibatches: int = field(8, static=True, doc="parts of a pass, one gradient step each")
    mixing: str = field("none", static=True, doc=f"how values are joined: {', '.join(MIXING)} (their sum)")
    team_reward: str = field("common", static=True, doc=f"{TEAM_REWARD_DOC}; for mixing='vdn'")
    layer_norm: bool = field(True, static=True, doc="normalise every hidden layer before its activation")
    td_lambda: float = field(0.3, doc="weight of longer returns in the targets [lambda], in [0, 1]; 0: one step")
    learning_rate: float = field(5e-4, doc="Adam step size")
    max_grad_norm: float = field(1.0, doc="global L2 norm a gradient is clipped to, per parameter slot")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "minibatches"):
            check_integer(self, name, 1)
        check_choice(self, "mixing", MIXING)
        self._check_minibatches(self.minibatches)

    @property
    def team(self) -> str | None:
        """`team_reward` if values are mixed, else None."""
        return self.team_reward if self.mixing == "vdn" else None

    def init(self, key: jax.Array, source: Environment) -> PQNState:
        """Draw the networks and the first state of the world."""
        key_networks, key_world, key_run = jax.random.split(key, 3)
        network = self.network(source.observation_shape, source.num_agents, source.num_actions)
        networks = self.init_slots(network, key_networks, source)
        return PQNState(
            params={"q": networks, "slots": jnp.asarray(self.slots(source), jnp.int32)},
            key=key_run,
            updates=jnp.int32(0),
            env_steps=jnp.int32(0),
            opt_state={"q": slots.adam_init(networks)},
            world=rollout.start(self.vector(source), self.initial_memory(source.num_agents), key_world),
        )

    def fresh_targets(self, networks: Any, env: Environment, batch: Sequences) -> jax.Array:
        """[B, T, J] targets of sequences [B, T, ...] from the network that is being learned."""

        def of_sequence(sequence: Sequences, following: jax.Array) -> jax.Array:
            return self.targets(networks, sequence, following, following)

        return jax.vmap(of_sequence, (0, 1))(batch, self.valued(networks, env, batch)[1])

    def loss(
        self, networks: Any, env: Environment, batch: Sequences, target: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean of (Q - y)^2 over rows [R, T', ...] with targets y [R, T', J], and scalars to log."""

        def of_row(row: Sequences, q: jax.Array) -> jax.Array:
            return self.chosen(networks, row, q)

        return self.squared_error(env, jax.vmap(of_row, (0, 1))(batch, self.unrolled(networks, env, batch)[1]), target)

    def rows(self, batch: Sequences, target: jax.Array) -> tuple[Sequences, jax.Array]:
        """Samples of the loss from [B, T, ...]: the sequences, or without a GRU their steps as sequences of one [B T, 1, ...]."""
        batch = dataclasses.replace(batch, next_view=None, next_state=None)
        if self.recurrent_size:
            return batch, target
        nothing = jnp.zeros((self.update_steps, *batch.memory.shape[1:]))
        steps = jax.tree.map(lambda leaf: leaf.reshape(self.update_steps, 1, *leaf.shape[2:]), (batch, target))
        return dataclasses.replace(steps[0], memory=nothing), steps[1]

    def update(self, state: PQNState, source: Environment) -> tuple[PQNState, dict[str, jax.Array]]:
        """One iteration; see the module's docstring."""
        key_play, key_epochs = jax.random.split(jax.random.fold_in(state.key, state.updates))
        world, played, metrics = self.collect(state.params, state.world, state.env_steps, source, key_play)
        networks = {"q": state.params["q"]}
        rows = self.rows(played, self.fresh_targets(networks, source, played))

        def step(carry: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            networks, opt_state = carry
            part, target = sharding.drawn(jax.tree.map(lambda leaf: leaf[index], rows))
            gradient, learned = jax.grad(self.loss, has_aux=True)(networks, source, part, target)
            networks, opt_state, norm = self.stepped(networks, gradient, opt_state, state.env_steps)
            return (networks, opt_state), {**learned, **norm}

        (networks, opt_state), learned = in_minibatches(
            step, (networks, state.opt_state), key_epochs, rows[1].shape[0], self.epochs, self.minibatches
        )
        state = dataclasses.replace(
            state,
            params={**state.params, **networks},
            updates=state.updates + 1,
            env_steps=state.env_steps + self.update_steps,
            opt_state=opt_state,
            world=world,
        )
        return state, {**metrics, **jax.tree.map(jnp.mean, learned)}
