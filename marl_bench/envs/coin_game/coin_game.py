"""The coin game on a small torus: `coin_game`.

Two agents, each with a coin of its colour to collect. Any coin pays its collector, but an agent loses when the other
takes a coin of its colour: taking everything is tempting and leaves both with nothing. Rules: `rules`, with the sources.

| | content |
|---|---|
| action | 0 right (0, +1), 1 left (0, -1), 2 down (+1, 0), 3 up (-1, 0), 4 stay (two coins only); out of range: clipped |
| agents_view | [2, S, S, 4] uint8 of 0/1: me, the other, coin of my colour, coin of the other's colour |
| reward | own_reward for a coin of the own colour, other_reward for one of the other's, penalty for each own coin that the other takes |
| ends | truncated after `horizon` steps |
| metrics | `own_coins`, `other_coins`: coins collected in this step by all agents, by colour; `mean_reward` |
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import (
    Environment,
    Observation,
    ScriptedPolicy,
    TimeStep,
    check_choice,
    check_integer,
    check_range,
    field,
)
from marl_bench.envs.coin_game import rules, scripted, viewer
from marl_bench.random import words

VIEWS = ("absolute", "egocentric")


@struct.dataclass
class State:
    """State of the coin game with C coins.

    Attributes:
      row: [2] int8, rows of the agents.
      col: [2] int8, columns of the agents.
      coin_row: [C] int8.
      coin_col: [C] int8.
      coin_owner: [C] int8, agent whose colour each coin has; (0, 1) with two coins.
      key: [] typed PRNG key of the episode; draws are numbered by the step count.
      step_count: [] int32.
    """

    row: jax.Array
    col: jax.Array
    coin_row: jax.Array
    coin_col: jax.Array
    coin_owner: jax.Array
    key: jax.Array
    step_count: jax.Array


@struct.dataclass
class CoinGame(Environment):
    """The coin game; action, observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    size: int = field(3, static=True, doc="S, cells on a side of the torus; 2 ... 15", unit="cells")
    coins: int = field(2, static=True, doc="2: one coin of each colour at all times; 1: one coin, colour alternates")
    view: str = field(
        "absolute",
        static=True,
        doc=f"frame of the observation: {', '.join(VIEWS)} (shifted so that I am in the centre)",
    )
    own_reward: float = field(1.0, doc="for collecting a coin of the own colour", unit="reward")
    other_reward: float = field(1.0, doc="for collecting a coin of the other's colour", unit="reward")
    penalty: float = field(-2.0, doc="for each coin of the own colour that the other collects", unit="reward")
    horizon: int = field(100, static=True, doc="steps after which the episode is truncated; >= 1", unit="steps")

    def __post_init__(self) -> None:
        check_integer(self, "size", 2, 15)
        check_integer(self, "coins", 1, 2)
        check_choice(self, "view", VIEWS)
        for name in ("own_reward", "other_reward", "penalty"):
            check_range(self, name)
        check_integer(self, "horizon", 1)

    @property
    def num_agents(self) -> int:
        """Two."""
        return 2

    @property
    def num_actions(self) -> int:
        """5 with two coins; 4 with one, where nobody may stay."""
        return 3 + self.coins

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(S, S, 4)."""
        return (self.size, self.size, 4)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """Views are uint8 zeros and ones."""
        view = specs.BoundedArray((2, *self.observation_shape), np.uint8, "agents_view", 0, 1)
        return dataclasses.replace(super().observation_spec, agents_view=view)

    @property
    def fixed_horizon(self) -> int:
        """Every episode has `horizon` steps."""
        return self.horizon

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "own_coins": "coins collected in this step by the agent of their colour",
            "other_coins": "coins collected in this step by the other agent",
            "mean_reward": "reward per agent and step",
        }

    # --- dynamics --------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Place everything uniformly: independently with two coins, else agents apart and the coin on neither.

        Args:
          key: [] typed PRNG key, which also gives all later draws of the episode.
        """
        start = jnp.int32(0)
        drawn = words(key, start, 0, 4)
        if self.coins == 2:
            row, col = rules.any_cell(drawn, self.size)
            row, coin_row, col, coin_col = row[:2], row[2:], col[:2], col[2:]
            owner = jnp.arange(2, dtype=jnp.int8)
        else:
            first_row, first_col = rules.any_cell(drawn[:1], self.size)
            both = jnp.concatenate([first_row, first_row]), jnp.concatenate([first_col, first_col])
            second_row, second_col = rules.cell_without(drawn[1:2], *both, self.size)
            row, col = jnp.concatenate([first_row, second_row]), jnp.concatenate([first_col, second_col])
            coin_row, coin_col = rules.cell_without(drawn[2:3], row, col, self.size)
            owner = rules.below(drawn[3:], 2).astype(jnp.int8)
        state = State(row, col, coin_row, coin_col, owner, key, start)
        return state, self.restart(self._observation(state), dict.fromkeys(self.metric_units, 0.0))

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Move both agents, collect, and let collected coins reappear. `actions`: [2] integers, clipped."""
        actions = jnp.clip(actions, 0, self.num_actions - 1)
        row, col = rules.move(state.row, state.col, actions, self.size)
        hits = rules.collected(row, col, state.coin_row, state.coin_col)
        reward = rules.pay(hits, state.coin_owner, self.own_reward, self.other_reward, self.penalty)
        count = state.step_count + 1
        drawn = words(state.key, count, 0, self.coins)
        taken = jnp.any(hits, axis=0)
        owner = state.coin_owner
        if self.coins == 2:
            new_row, new_col = rules.any_cell(drawn, self.size)
        else:
            new_row, new_col = rules.cell_without(drawn, row, col, self.size)
            owner = jnp.where(taken, 1 - owner, owner)
        coin_row = jnp.where(taken, new_row, state.coin_row)
        coin_col = jnp.where(taken, new_col, state.coin_col)
        following = State(row, col, coin_row, coin_col, owner, state.key, count)
        own = jnp.sum(hits & (state.coin_owner == np.arange(2, dtype=np.int8)[:, None]), dtype=jnp.float32)
        metrics = {
            "own_coins": own,
            "other_coins": jnp.sum(hits, dtype=jnp.float32) - own,
            "mean_reward": jnp.mean(reward),
        }
        observation = self._observation(following)
        return following, self.transition(reward, observation, truncated=count >= self.horizon, metrics=metrics)

    # --- views -----------------------------------------------------------------------------------

    def _observation(self, state: State) -> Observation:
        return self.observe_view(self._planes(state, self.view == "egocentric"), state.step_count)

    def _planes(self, state: State, centred: bool) -> jax.Array:
        """[2, S, S, 4] uint8 view of each agent."""
        size, nowhere = self.size, np.uint8(255)

        def cell(row: jax.Array, col: jax.Array) -> jax.Array:
            """[2] uint8 cells of things at rows and columns [2], one in each agent's view."""
            if centred:
                row = rules.wrap(rules.wrap(row - state.row, size) + size // 2, size)
                col = rules.wrap(rules.wrap(col - state.col, size) + size // 2, size)
            return row.astype(jnp.uint8) * np.uint8(size) + col.astype(jnp.uint8)

        coin_row, coin_col = state.coin_row, state.coin_col
        if self.coins == 2:
            mine, others = cell(coin_row, coin_col), cell(coin_row[::-1], coin_col[::-1])
        else:
            coin = cell(jnp.concatenate([coin_row, coin_row]), jnp.concatenate([coin_col, coin_col]))
            own = state.coin_owner == np.arange(2, dtype=np.int8)
            mine, others = jnp.where(own, coin, nowhere), jnp.where(own, nowhere, coin)
        cells = jnp.stack([cell(state.row, state.col), cell(state.row[::-1], state.col[::-1]), mine, others], axis=1)
        planes = cells[:, None, :] == np.arange(size * size, dtype=np.uint8)[:, None]
        return planes.astype(jnp.uint8).reshape(2, size, size, 4)

    def global_state(self, state: State) -> jax.Array:
        """[4 S^2] float32: agent 0's absolute view, flattened."""
        return self._planes(state, False)[0].reshape(-1).astype(jnp.float32)

    def render(self, state: State) -> np.ndarray:
        """uint8 [32 S, 32 S, 3]: frames are agents, discs coins; red belongs to agent 0, blue to agent 1."""
        return viewer.render(state, self.size)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` collects coins of the own colour only, `defect` the nearest one (own colour on a tie)."""

        def cooperate(state: State, observation: Any, key: jax.Array) -> jax.Array:
            del observation, key
            return scripted.own_coin(state, self.size)

        def defect(state: State, observation: Any, key: jax.Array) -> jax.Array:
            del observation, key
            return scripted.nearest_coin(state, self.size, jnp.arange(2))

        return {"cooperate": cooperate, "defect": defect}
