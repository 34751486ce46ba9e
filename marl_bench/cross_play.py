"""Policies that meet others: matrices of cross-play, and how much a best response gains against a policy of two players.

Knows the two protocols only, so every learner's policies may meet every other's, in every world. Everything is a function of its
arguments that can be jitted and vmapped.

Source of exploitability: Lanctot et al. 2017 (NashConv, section 3), here as the mean over the two players. A trained best response is
at best a best one, so what is found is a lower bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import evaluation, specs
from marl_bench.environment import Environment, Observation, TimeStep, check_integer
from marl_bench.learner import Learner


@struct.dataclass
class Party:
    """A policy: who acts, and with which parameters. As a stack of K policies, with leaves [K, ...].

    Attributes:
      learner: whose `act` and `initial_memory` are used. params: what `act` takes.
    """

    learner: Any
    params: Any


def stacked(parties: Sequence[Party]) -> Party:
    """Policies of one kind as a stack with leaves [K, ...].

    Raises:
      ValueError: when they differ in more than numbers (other learners, other sizes of networks).
    """
    shapes = [jax.tree.map(jnp.shape, party) for party in parties]
    different = [number for number, shape in enumerate(shapes) if shape != shapes[0]]
    if different:
        raise ValueError(
            f"policies {', '.join(map(str, different))} differ from policy 0 in more than numbers (learner or sizes); "
            "stack those that are alike and play the stacks against each other"
        )
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *parties)


@struct.dataclass
class Mixed(Learner):
    """Two policies in one world: agent i is played by policy `seats[i]`. Hand it to `evaluation.play`, with params ().

    A policy with separate parameters for its agents plays a seat with those of the agent that sat there in training.

    Attributes:
      parties: the two policies. seats: [N] of 0 and 1.
    """

    parties: tuple[Party, Party]
    seats: tuple[int, ...] = struct.field(pytree_node=False)

    def initial_memory(self, num_agents: int) -> Any:
        """Both policies' memories."""
        return tuple(party.learner.initial_memory(num_agents) for party in self.parties)

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """[N] or [N, D] actions, each of the policy that has the seat."""
        del params
        keys = jax.random.split(key)
        played = [
            party.learner.act(party.params, own, observation, key_party, greedy)
            for party, own, key_party in zip(self.parties, memory, keys, strict=True)
        ]
        (first, first_memory), (second, second_memory) = played
        seats = np.reshape(self.seats, (-1,) + (1,) * (first.ndim - 1))
        return jnp.where(seats == 0, first, second), (first_memory, second_memory)


def halves(num_agents: int) -> tuple[int, ...]:
    """[N] seats: the first half of the agents for policy 0, the others for policy 1."""
    return tuple(int(agent >= num_agents // 2) for agent in range(num_agents))


def cross_play(
    env: Environment,
    rows: Party,
    columns: Party,
    key: jax.Array,
    episodes: int,
    greedy: bool,
    seats: tuple[int, ...] | None = None,
    longest: int = evaluation.LONGEST,
) -> tuple[jax.Array, jax.Array]:
    """Play every policy of one stack with every policy of another (or of the same: the diagonal is then self-play).

    All pairs play episodes of the same keys, so differences between pairs are not those between episodes.

    Args:
      env: the world.
      rows: R policies, who sit where `seats` is 0. columns: C policies, who sit where it is 1.
      key: [] typed PRNG key.
      episodes: of each pair.
      greedy: handed to `act`.
      seats: [N] of 0 and 1; None for `halves`.
      longest: steps after which an episode is cut.
    Returns:
      mean: [R, C, N] float32 return of each agent, and its standard error over episodes [R, C, N].
    Raises:
      ValueError: when `seats` is not one 0 or 1 an agent, both of them taken.
    """
    seats = halves(env.num_agents) if seats is None else tuple(seats)
    if len(seats) != env.num_agents or set(seats) != {0, 1}:
        raise ValueError(f"seats={seats}: must be {env.num_agents} entries, one an agent, of 0 and 1, both in use")

    def meet(row: Party, column: Party) -> tuple[jax.Array, jax.Array]:
        mixed = Mixed((row, column), seats)
        returns = evaluation.play(env, mixed, (), key, episodes, greedy, longest).returns
        return jnp.mean(returns, axis=0), jnp.std(returns, axis=0) / np.sqrt(episodes)

    # One row at a time: the memory needed grows with the columns only.
    return jax.lax.map(lambda row: jax.vmap(meet, (None, 0))(row, columns), rows)


# --- exploitability ------------------------------------------------------------------------------------------


@struct.dataclass
class AgainstState:
    """State of `Against`.

    Attributes:
      inner: state of the two-player world. observation: its `Observation`, which the frozen policy acts on next.
      memory: the frozen policy's. key: [] typed PRNG key of its actions in this episode.
    """

    inner: Any
    observation: Observation
    memory: Any
    key: jax.Array


@struct.dataclass
class Against(Environment):
    """A two-player world as one for a single agent: the other player is a frozen policy.

    Attributes:
      environment: the two-player world.
      opponent: the frozen policy.
      side: which player the agent is, 0 or 1.
      greedy: handed to the frozen policy's `act`.

    Raises:
      ValueError: for a world that has not two players, or asks its learner for inputs; for another side than 0 and 1.
    """

    environment: Any
    opponent: Party
    side: int = struct.field(pytree_node=False)
    greedy: bool = struct.field(pytree_node=False, default=False)

    def __post_init__(self) -> None:
        check_integer(self, "side", 0, 1)
        if not isinstance(self.environment, Environment):
            return  # `jax.tree` operations put other things there
        name = type(self.environment.unwrapped).__name__
        if self.environment.num_agents != 2:
            raise ValueError(
                f"{name} has {self.environment.num_agents} agents: exploitability is for two-player worlds"
            )
        if self.environment.learner_inputs:
            wanted = ", ".join(self.environment.learner_inputs)
            raise ValueError(f"{name} asks its learner for {wanted}, which a frozen policy has not")

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_agents(self) -> int:
        """One."""
        return 1

    @property
    def num_actions(self) -> int:
        """Of the two-player world; those that the agent has not are masked."""
        return self.environment.num_actions

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of the two-player world."""
        return self.environment.observation_shape

    @property
    def fixed_horizon(self) -> int | None:
        """Of the two-player world."""
        return self.environment.fixed_horizon

    @property
    def endless(self) -> bool:
        """Of the two-player world."""
        return self.environment.endless

    @property
    def metric_units(self) -> dict[str, str]:
        """Of the two-player world."""
        return self.environment.metric_units

    @property
    def observation_spec(self) -> Any:
        """The agent's row of the two-player world's."""
        spec = self.environment.observation_spec
        return dataclasses.replace(
            spec, agents_view=self._row_of_spec(spec.agents_view), action_mask=self._row_of_spec(spec.action_mask)
        )

    @property
    def action_spec(self) -> Any:
        """The agent's row of the two-player world's."""
        spec = self.environment.action_spec
        if hasattr(spec, "num_values"):
            return specs.MultiDiscreteArray(self._row(spec.num_values), spec.dtype, spec.name)
        return self._row_of_spec(spec)

    # --- dynamics --------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[AgainstState, TimeStep]:
        """Start an episode of the two-player world. `key`: [] typed PRNG key."""
        key_world, key_opponent = jax.random.split(key)
        inner, timestep = self.environment.reset(key_world)
        memory = self.opponent.learner.initial_memory(2)
        return AgainstState(inner, timestep.observation, memory, key_opponent), self._seen(timestep)

    def step(self, state: AgainstState, actions: jax.Array) -> tuple[AgainstState, TimeStep]:
        """Advance by the agent's action [1] (or [1, D]) and the frozen policy's."""
        opponent, key = self.opponent, jax.random.fold_in(state.key, state.observation.step_count)
        joint, memory = opponent.learner.act(opponent.params, state.memory, state.observation, key, self.greedy)
        joint = jnp.asarray(joint).at[self.side].set(actions[0].astype(joint.dtype))
        inner, timestep = self.environment.step(state.inner, joint)
        return AgainstState(inner, timestep.observation, memory, state.key), self._seen(timestep)

    def global_state(self, state: AgainstState) -> jax.Array:
        """[S] float32, of the two-player world."""
        return self.environment.global_state(state.inner)

    def _row(self, leaf: Any) -> Any:
        return leaf[self.side : self.side + 1]

    def _row_of_spec(self, spec: specs.Array) -> specs.Array:
        changes: dict[str, Any] = {"shape": (1, *spec.shape[1:])}
        if isinstance(spec, specs.BoundedArray):
            bounds = {"minimum": spec.minimum, "maximum": spec.maximum}
            changes |= {name: self._row(np.broadcast_to(bound, spec.shape)) for name, bound in bounds.items()}
        return spec.replace(**changes)

    def _seen(self, timestep: TimeStep) -> TimeStep:
        view, mask, step_count = timestep.observation
        return dataclasses.replace(
            timestep,
            reward=self._row(timestep.reward),
            discount=self._row(timestep.discount),
            observation=Observation(self._row(view), self._row(mask), step_count),
            extras={"metrics": timestep.extras["metrics"]},
        )


@struct.dataclass
class Exploitability:
    """What best responses to a policy of two players earn.

    Attributes:
      value: [2] float32 mean return of each player when both follow the policy.
      response: [2] float32 mean return of a best response in each player's place.
    """

    value: jax.Array
    response: jax.Array

    @property
    def gain(self) -> jax.Array:
        """[2] what each player gains by leaving the policy; below 0 if the response was not trained well enough."""
        return self.response - self.value

    @property
    def exploitability(self) -> jax.Array:
        """[] mean gain of the two players: 0 at a Nash equilibrium (NashConv / 2)."""
        return jnp.mean(self.gain, axis=-1)


def best_response(env: Against, learner: Learner, key: jax.Array, updates: int) -> Party:
    """Train `learner` against a frozen policy.

    Args:
      env: the world of one player. learner: any online learner.
      key: [] typed PRNG key.
      updates: calls of the learner's `update`.
    """
    state = learner.init(key, env)
    state = jax.lax.fori_loop(0, updates, lambda _, state: learner.update(state, env)[0], state)
    return Party(learner, state.params)


def exploitability(
    env: Environment,
    policy: Party,
    learner: Learner,
    key: jax.Array,
    updates: int,
    episodes: int,
    greedy: bool = False,
    longest: int = evaluation.LONGEST,
) -> Exploitability:
    """Train a best response in each player's place, and play both it and the policy.

    Args:
      env: a two-player world whose episodes end.
      policy: plays both players.
      learner: learns the responses; it must be able to play the world with one agent (`learner.validate(Against(...))`).
      key: [] typed PRNG key.
      updates: calls of `learner.update` for each response.
      episodes: of each evaluation. The responses play greedily.
      greedy: whether the policy plays greedily.
      longest: steps after which an episode is cut.
    Raises:
      ValueError: for a world that has not two players, or whose learner cannot play it.
    """
    key_value, *keys = jax.random.split(key, 3)
    own = evaluation.play(env, policy.learner, policy.params, key_value, episodes, greedy, longest).returns
    responses = []
    for side, key_side in enumerate(keys):
        world = Against(env, policy, side, greedy)
        learner.validate(world)
        key_train, key_play = jax.random.split(key_side)
        found = best_response(world, learner, key_train, updates)
        returns = evaluation.play(world, learner, found.params, key_play, episodes, True, longest).returns
        responses.append(jnp.mean(returns))
    return Exploitability(jnp.mean(own, axis=0), jnp.stack(responses))
