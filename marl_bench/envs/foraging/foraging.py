"""Level-based foraging: `foraging`.

Sources: PyPI `lbforaging` 2.0.0 (Papoudakis et al. 2021, "Benchmarking Multi-Agent Deep Reinforcement Learning Algorithms in
Cooperative Tasks"; Christianos et al. 2020), and Jumanji 1.1.2 `LevelBasedForaging` with `variant="jumanji"`.

Agents walk on a board and load food. Agents beside a food that play LOAD in the same step lift it if their levels add up to at
least its level, and share its worth by their levels.

| | content |
|---|---|
| action | 0 = NONE, 1 = NORTH (row - 1), 2 = SOUTH, 3 = WEST (column - 1), 4 = EAST, 5 = LOAD |
| agents_view | [N, 3 F + 3 N] float32, triples (row, column, level): food, then the agent itself, then the others; or windows |
| reward | level x food's level / (levels of the loading group x all food of the episode); 1 in sum for a cleared board |
| ends | terminates when no food is left; truncates after `horizon` steps |
| metrics | `foods_eaten`, `level_collected`, `load_attempts`, `load_successes` |

An action that the mask forbids does nothing; out-of-range actions are clipped to 0 ... 5. Nothing is random after the reset.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import Environment, ScriptedPolicy, TimeStep, field
from marl_bench.envs.batch_last import batch_last
from marl_bench.envs.foraging import generation, limits, rules, scripted, viewer, views
from marl_bench.random import words


@struct.dataclass
class State:
    """State of the board. A food of level 0 is eaten; an absent one lies at row and column -1.

    Attributes:
      row: [N] int8, of the agents, counted downwards. col: [N] int8, to the right.
      level: [N] int8, of the agents.
      food_row: [F] int8. food_col: [F] int8. Row by row with lbforaging's rules.
      food_level: [F] int8.
      food_total: [] int16, sum of the levels of all food at the reset.
      step_count: [] int32.
    """

    row: jax.Array
    col: jax.Array
    level: jax.Array
    food_row: jax.Array
    food_col: jax.Array
    food_level: jax.Array
    food_total: jax.Array
    step_count: jax.Array

    @property
    def foods(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """([F] rows, [F] columns, [F] levels)."""
        return self.food_row, self.food_col, self.food_level


def _small(state: State) -> State:
    """The state in the dtypes that it is kept in."""
    narrow: State = jax.tree.map(lambda leaf: leaf.astype(jnp.int8), state)
    return narrow.replace(  # pyright: ignore[reportAttributeAccessIssue]
        food_total=state.food_total.astype(jnp.int16), step_count=state.step_count.astype(jnp.int32)
    )


@struct.dataclass
class Foraging(Environment):
    """Level-based foraging; action, observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range, or settings that cannot be played. TypeError: for a value of the wrong type.
    """

    size: int = field(8, static=True, doc="rows of the board, 3 ... 100; its columns too unless given", unit="cells")
    columns: int | None = field(None, static=True, doc="columns, 3 ... 100; None: as many as rows", unit="cells")
    agents: int = field(2, static=True, doc="N, number of agents; >= 1", unit="agents")
    food: int = field(2, static=True, doc="F, most foods of an episode; fewer if they do not fit; >= 1", unit="foods")
    sight: int | None = field(
        None, static=True, doc="cells seen in each of eight directions; >= 1; None: the whole board", unit="cells"
    )
    min_player_level: Any = field(1, doc="lowest level of an agent, 1 ... 42; or a list of N, dealt at random")
    max_player_level: Any = field(2, doc="highest level of an agent, 1 ... 42; or a list of N, dealt in the same order")
    min_food_level: Any = field(1, doc="lowest level of a food, 1 ... 126; or a list of F, dealt at random")
    max_food_level: Any = field(
        None, doc="highest level of a food, or a list of F; None: the sum of the three weakest agents' levels"
    )
    force_coop: bool = field(False, static=True, doc="every food has the highest level")
    penalty: float = field(0.0, doc="for each agent of a group too weak for the food it tries; >= 0", unit="reward")
    normalize_reward: bool = field(True, static=True, doc="rewards of a cleared board sum to 1")
    team_reward: str = field(
        "none", static=True, doc="none: each its own reward; sum, mean: all get the sum or mean over agents"
    )
    observe_agent_levels: bool = field(True, static=True, doc="whether views show levels of agents")
    grid_observation: bool = field(False, static=True, doc="views are windows of the board instead of lists")
    state_view: str = field(
        "state", static=True, doc="global_state: state, the positions and levels; observations, all views in a row"
    )
    horizon: int = field(50, static=True, doc="steps after which an episode is cut; >= 1", unit="steps")
    timeout_is_terminal: bool = field(False, static=True, doc="the horizon terminates (discount 0), as in lbforaging")
    variant: str = field("lbforaging", static=True, doc=f"whose rules: {', '.join(limits.VARIANTS)}")
    collision: str | None = field(
        None, static=True, doc="lbf: agents may swap, follow and stack; strict: they may not; None: as the variant"
    )

    def __post_init__(self) -> None:
        limits.check(self)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of the board."""
        return self.size

    @property
    def cols(self) -> int:
        """Columns of the board."""
        return self.size if self.columns is None else self.columns

    @property
    def common_reward(self) -> bool:
        """False: food pays those who load it."""
        return False

    @property
    def num_agents(self) -> int:
        """`agents`."""
        return self.agents

    @property
    def num_actions(self) -> int:
        """Six."""
        return rules.NUM_ACTIONS

    @property
    def reach(self) -> int:
        """`sight`, or as far as the board is long."""
        return max(self.rows, self.cols) if self.sight is None else self.sight

    @property
    def strict(self) -> bool:
        """Whether the strict collision rule holds."""
        return self.collision == "strict" or self.variant == "jumanji"

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(3 F + 3 N,), (3 F + 2 N,) without levels of agents, or (3, 2 sight + 1, 2 sight + 1)."""
        if self.grid_observation:
            return (3, 2 * self.reach + 1, 2 * self.reach + 1)
        return (3 * self.food + (3 if self.observe_agent_levels else 2) * self.agents,)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """Bounded where the levels are plain numbers."""
        spec, tops = super().observation_spec, limits.top_levels(self)
        if tops is None:
            return spec
        agent, food = tops
        shape = (self.agents, *self.observation_shape)
        if self.grid_observation:
            high = np.array([agent if self.observe_agent_levels else 1, food, 1], np.float32)[:, None, None]
            low: Any = 0.0
        else:
            last_row, last_col, shown = self.rows - 1, self.cols - 1, self.observe_agent_levels
            parts = [[last_row, last_col, food]] * self.food + [[last_row, last_col, agent][: 2 + shown]] * self.agents
            lows = [[-1, -1, 0]] * self.food + [[-1, -1, 0][: 2 + shown]] * self.agents
            high, low = np.concatenate(parts).astype(np.float32), np.concatenate(lows).astype(np.float32)
        view = specs.BoundedArray(shape, np.float32, "agents_view", low, high)
        return dataclasses.replace(spec, agents_view=view)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "foods_eaten": "fraction of the foods of this episode that are eaten so far",
            "level_collected": "fraction of the levels of these foods that are eaten so far",
            "load_attempts": "agents that played LOAD beside a food in this step",
            "load_successes": "agents that loaded food in this step",
        }

    @property
    def batch_last(self) -> bool:
        """A batch is the last axis inside a step."""
        return True

    # --- dynamics --------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Draw places and levels. `key`: [] typed PRNG key."""
        agents, food = self.agents, self.food
        bits = words(key, jnp.zeros((), jnp.int32), 0, 3 * (agents + food)).reshape(3, agents + food)
        places = generation.jumanji_places if self.variant == "jumanji" else generation.lbforaging_places
        (row, col), (food_row, food_col) = places(bits[0], agents, self.rows, self.cols)
        level = generation.draw_levels(bits[1:, :agents], self.min_player_level, self.max_player_level)
        bounds = generation.food_bounds(level, self.min_food_level, self.max_food_level, self.force_coop)
        food_level = jnp.where(food_row < 0, 0, generation.draw_levels(bits[1:, agents:], *bounds))
        state = _small(
            State(row, col, level, food_row, food_col, food_level, jnp.sum(food_level), jnp.zeros((), jnp.int32))
        )
        view, mask = self._seen(jax.tree.map(lambda leaf: leaf.astype(jnp.int32), state))
        metrics = dict.fromkeys(self.metric_units, 0.0)
        return state, self.restart(self.observe_view(view, state.step_count, mask), metrics)

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Move all agents at once, then load. `actions`: [N] integers, clipped to 0 ... 5."""
        state, (view, mask), reward, cleared, metrics = batch_last(self._advance)(state, actions, self.penalty)
        observation = self.observe_view(view, state.step_count, mask)
        timeout = state.step_count >= self.horizon
        terminated = cleared | timeout if self.timeout_is_terminal else cleared
        return state, self.transition(reward, observation, terminated, timeout, metrics)

    def _advance(self, state: State, actions: jax.Array, penalty: jax.Array) -> tuple[Any, ...]:
        """One step on plain arrays; the axis of a batch, if any, stands behind (see `rules`). Reads static fields only."""
        narrow = state
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), state)
        actions = jnp.clip(actions, 0, self.num_actions - 1)
        row, col = rules.move(state.row, state.col, actions, state.foods, self.rows, self.cols, self.strict)
        member, strength, lifted = rules.load(row, col, state.level, actions == rules.LOAD, state.foods)
        group = member, strength, lifted
        normalize, shared = self.normalize_reward, self.variant == "jumanji"
        gained = rules.shares(*group, state.level, state.food_level, state.food_total, normalize)
        reward = gained - rules.fines(*group, state.food_total, penalty, normalize, shared)
        food_level = jnp.where(lifted, 0, state.food_level)
        following = state.replace(  # pyright: ignore[reportAttributeAccessIssue]
            row=row, col=col, food_level=food_level, step_count=state.step_count + 1
        )
        cleared = jnp.all(food_level == 0, axis=0)
        metrics = _progress(following, member, lifted)
        seen = self._seen(following)
        # What a step leaves alone stays as it was, without a conversion there and back.
        kept = narrow.replace(  # pyright: ignore[reportAttributeAccessIssue]
            row=row.astype(jnp.int8),
            col=col.astype(jnp.int8),
            food_level=food_level.astype(jnp.int8),
            step_count=following.step_count,
        )
        return kept, seen, self._shared(reward), cleared, metrics

    def _shared(self, reward: jax.Array) -> jax.Array:
        if self.team_reward == "none":
            return reward
        team = jnp.sum(reward, axis=0) if self.team_reward == "sum" else jnp.mean(reward, axis=0)
        return jnp.broadcast_to(team[None], reward.shape)

    def _seen(self, state: State) -> tuple[jax.Array, jax.Array]:
        """Views [N, ...] float32 and legal actions [N, 6] of a state of int32."""
        return self._view(state), rules.legal(
            state.row, state.col, state.foods, self.rows, self.cols, self.variant == "jumanji"
        )

    def _view(self, state: State) -> jax.Array:
        if self.grid_observation:
            return views.windows(
                state.row,
                state.col,
                state.level,
                state.foods,
                self.rows,
                self.cols,
                self.reach,
                self.observe_agent_levels,
            )
        whole = self.reach >= max(self.rows, self.cols) - 1
        how = self.reach, whole, self.variant != "jumanji"
        foods = views.food_list(state.row, state.col, state.foods, *how)
        agents = views.agent_list(state.row, state.col, state.level, *how)
        return views.vector(foods, agents, self.observe_agent_levels)

    # --- views -----------------------------------------------------------------------------------

    def global_state(self, state: State) -> jax.Array:
        """[3 F + 3 N + 1] float32: triples (row, column, level) of food (level 0: eaten), then of agents, then the time as a
        fraction of the horizon. With `state_view="observations"`: all agents' views, one after the other."""
        if self.state_view == "observations":
            return self._view(jax.tree.map(lambda leaf: leaf.astype(jnp.int32), state)).reshape(-1)
        foods = jnp.stack(state.foods, axis=1).reshape(-1)
        agents = jnp.stack([state.row, state.col, state.level], axis=1).reshape(-1)
        time = state.step_count.astype(jnp.float32)[None] / self.horizon
        return jnp.concatenate([foods.astype(jnp.float32), agents.astype(jnp.float32), time])

    def render(self, state: State) -> np.ndarray:
        """uint8 [32 R, 32 C, 3]: discs are agents, squares are food, numbers are levels."""
        return viewer.render(state, self.rows, self.cols)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`coordinate` sends the agents in teams to food they can load; `h1` ... `h4` are lbforaging's heuristics."""
        policies: dict[str, ScriptedPolicy] = {"coordinate": scripted.coordinate(self.rows, self.cols)}
        for name, (target, limit) in scripted.HEURISTICS.items():
            policies[name] = scripted.heuristic(target, limit, self.reach)
        return policies


def _progress(state: State, member: jax.Array, lifted: jax.Array) -> dict[str, jax.Array]:
    """The metrics, each [] (or [B])."""
    placed = jnp.sum(state.food_row >= 0, axis=0)
    eaten = placed - jnp.sum(state.food_level > 0, axis=0)
    collected = state.food_total - jnp.sum(state.food_level, axis=0)
    return {
        "foods_eaten": eaten / jnp.maximum(placed, 1),
        "level_collected": collected / jnp.maximum(state.food_total, 1),
        "load_attempts": jnp.sum(jnp.any(member, axis=1), axis=0, dtype=jnp.float32),
        "load_successes": jnp.sum(jnp.any(member & lifted[None], axis=1), axis=0, dtype=jnp.float32),
    }
