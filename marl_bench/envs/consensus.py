"""Meeting in the middle: `consensus`, a cooperative game of one step.

n agents stand on the cells 0, 1, 2, each on a uniform one, and see their own cell only. All move once; with c agents in the
middle the team receives c / n, or 0.1 if nobody is there. So the best return is 1, while a lone agent in the middle is
worse than nobody for n > 10. Source: the published code of Shao et al. 2023 (CFCQL); no results were published for it.

| | content |
|---|---|
| action | 0 stay, 1 left, 2 right; never leaves the cells 0 ... 2; out of range: clipped |
| agents_view | [n, 1] float32: own cell, 0, 1 or 2 |
| reward | c / n if c > 0 else `consolation`, the same for all |
| ends | terminated after one step; truncated (as the original flags it) with `terminal_at_end=False` |
| metrics | `in_the_middle`: fraction of agents on cell 1 |
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import Environment, ScriptedPolicy, TimeStep, check_integer, check_range, field
from marl_bench.envs import raster


@struct.dataclass
class State:
    """State of `consensus`.

    Attributes:
      cell: [n] int8 in 0 ... 2.
      step_count: [] int32.
    """

    cell: jax.Array
    step_count: jax.Array


def uniform_play_return(players: Any, consolation: Any = 0.1) -> Any:
    """Expected return of uniform play, and of never moving: 1/3 + consolation (2/3)^n."""
    return 1 / 3 + consolation * (2 / 3) ** players


@struct.dataclass
class Consensus(Environment):
    """Meeting in the middle; rules, observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    players: int = field(3, static=True, doc="number of agents n; >= 2", unit="agents")
    consolation: float = field(0.1, doc="reward when nobody is in the middle", unit="reward")
    terminal_at_end: bool = field(True, static=True, doc="terminate (discount 0); False: truncate, as the original")

    def __post_init__(self) -> None:
        check_integer(self, "players", 2)
        check_range(self, "consolation")
        if not isinstance(self.terminal_at_end, bool):
            raise TypeError(f"terminal_at_end={self.terminal_at_end!r}: must be True or False (field of Consensus)")

    @property
    def common_reward(self) -> bool:
        """True."""
        return True

    @property
    def num_agents(self) -> int:
        """Number of agents n."""
        return self.players

    @property
    def num_actions(self) -> int:
        """Three: stay, left, right."""
        return 3

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(1,)."""
        return (1,)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """`ObservationSpec` whose views lie in [0, 2]."""
        spec = super().observation_spec
        view = specs.BoundedArray((self.players, 1), np.float32, "agents_view", 0.0, 2.0)
        return specs.ObservationSpec(view, spec.action_mask, spec.step_count)

    @property
    def fixed_horizon(self) -> int:
        """One step."""
        return 1

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning of the metric."""
        return {"in_the_middle": "fraction of agents on cell 1, in [0, 1]"}

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Put every agent on a uniform cell. `key`: [] typed PRNG key."""
        cell = jax.random.randint(key, (self.players,), 0, 3).astype(jnp.int8)
        state = State(cell=cell, step_count=jnp.zeros((), jnp.int32))
        return state, self.restart(self._observation(state), self._metrics(state))

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Move everybody at once. `actions`: [n] integers, clipped to 0 ... 2."""
        actions = jnp.clip(actions, 0, 2)
        move = (actions == 2).astype(jnp.int8) - (actions == 1).astype(jnp.int8)
        state = State(cell=jnp.clip(state.cell + move, 0, 2).astype(jnp.int8), step_count=state.step_count + 1)
        middle = jnp.sum(state.cell == 1)
        team = jnp.where(middle > 0, middle / np.float32(self.players), self.consolation)
        reward = jnp.broadcast_to(team, (self.players,))
        ends = {"terminated": True} if self.terminal_at_end else {"truncated": True}
        return state, self.transition(reward, self._observation(state), metrics=self._metrics(state), **ends)

    def _observation(self, state: State) -> Any:
        return self.observe_view(state.cell[:, None].astype(jnp.float32), state.step_count)

    def _metrics(self, state: State) -> dict[str, Any]:
        return {"in_the_middle": jnp.mean(state.cell == 1)}

    def global_state(self, state: State) -> jax.Array:
        """[n] float32 cells."""
        return state.cell.astype(jnp.float32)

    @property
    def num_codes(self) -> int:
        """Three views."""
        return 3

    def code_observations(self) -> np.ndarray:
        """[3, 1] float32: the cell that each code stands for."""
        return np.arange(3, dtype=np.float32)[:, None]

    def observation_code(self, state: State) -> jax.Array:
        """[n] uint8: the own cell."""
        return state.cell.astype(jnp.uint8)

    def render(self, state: State) -> np.ndarray:
        """uint8 [32 n, 96, 3]: one row an agent, three cells, a disc where it stands; the middle is tinted."""
        picture = raster.tiles(np.tile([0, 1, 0], (self.players, 1)), [raster.FLOOR, raster.GRASS], 32)
        for agent, cell in enumerate(np.asarray(state.cell)):
            raster.disc(picture, 32 * agent + 16, 32 * int(cell) + 16, 11, raster.agent_colour(agent))
        return picture

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`middle` goes to the middle, the optimum; `stay` does not move."""

        def middle(state: State, observation: Any, key: jax.Array) -> jax.Array:
            del observation, key
            return jnp.where(state.cell == 1, 0, jnp.where(state.cell == 0, 2, 1)).astype(jnp.int32)

        def stay(state: State, observation: Any, key: jax.Array) -> jax.Array:
            del observation, key
            return jnp.zeros_like(state.cell, jnp.int32)

        return {"middle": middle, "stay": stay}
