"""Spreading out on a line: `equal_line`.

n agents on the segment [0, L], L = max(10, 2n), start together in [0, 2) and are paid, as a team, for every growth of the
smallest distance between two of them. Rules: `rules`, with the source.

| | content |
|---|---|
| action | 0 ... 10: displacement 0, -0.01, -0.05, -0.1, -0.5, -1, 0.01, 0.05, 0.1, 0.5, 1; out of range: clipped |
| agents_view | [n, n] float32: all positions divided by L, the same for every agent; [n, 2n] with `agent_id` (own one-hot after it) |
| reward | 10 (n - 1) / L times the growth of the smallest gap, the same for all; the first step contains the whole gap |
| ends | truncated after `horizon` steps; terminated with `timeout_is_terminal` |
| metrics | `gap`: smallest distance, in units of length; `spread`: 10 (n - 1) gap / L, the return so far, 0 ... 10 |
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import Environment, ScriptedPolicy, TimeStep, check_integer, field
from marl_bench.envs import raster
from marl_bench.envs.equal_line import rules, scripted


@struct.dataclass
class State:
    """State of `equal_line`.

    Attributes:
      x: [n] float32 positions in [0, L].
      last_gap: [] float32 smallest gap after the previous step; 0 at the reset, whatever the start positions.
      step_count: [] int32.
    """

    x: jax.Array
    last_gap: jax.Array
    step_count: jax.Array


@struct.dataclass
class EqualLine(Environment):
    """Spreading out on a line; observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    players: int = field(6, static=True, doc="number of agents n; >= 2; above 24 nobody can finish in 50 steps")
    horizon: int = field(50, static=True, doc="steps after which the episode ends; >= 1", unit="steps")
    agent_id: bool = field(False, static=True, doc="append the own one-hot index to every view")
    timeout_is_terminal: bool = field(
        False, static=True, doc="end by termination (discount 0), as the original does, not by truncation"
    )

    def __post_init__(self) -> None:
        check_integer(self, "players", 2)
        check_integer(self, "horizon", 1)
        for name in ("agent_id", "timeout_is_terminal"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r}: must be True or False (field of EqualLine)")

    @property
    def length(self) -> float:
        """Length L of the segment."""
        return rules.length(self.players)

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
        """11 displacements."""
        return len(rules.DISPLACEMENTS)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(n,), or (2n,) with `agent_id`."""
        return (self.players * (2 if self.agent_id else 1),)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """`ObservationSpec` whose views lie in [0, 1]."""
        spec = super().observation_spec
        shape = (self.players, *self.observation_shape)
        view = specs.BoundedArray(shape, np.float32, "agents_view", 0.0, 1.0)
        return specs.ObservationSpec(view, spec.action_mask, spec.step_count)

    @property
    def fixed_horizon(self) -> int | None:
        """`horizon`; None where its end is a termination, which is no time limit to learners."""
        return None if self.timeout_is_terminal else self.horizon

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "gap": "smallest distance between two agents, in units of length",
            "spread": "10 (n - 1) gap / L, 10 when evenly spread; from the first step on, the return so far",
        }

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Draw every position uniformly in [0, 2). `key`: [] typed PRNG key."""
        x = jax.random.uniform(key, (self.players,), jnp.float32, 0.0, rules.START)
        state = State(x=x, last_gap=jnp.zeros((), jnp.float32), step_count=jnp.zeros((), jnp.int32))
        return state, self.restart(self._observation(state), self._metrics(rules.smallest_gap(x)))

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Move everybody at once. `actions`: [n] integers, clipped to 0 ... 10."""
        x = rules.move(state.x, jnp.clip(actions, 0, self.num_actions - 1))
        gap = rules.smallest_gap(x)
        team = rules.reward(gap, state.last_gap, self.players)
        state = State(x=x, last_gap=gap, step_count=state.step_count + 1)
        ended = state.step_count >= self.horizon
        ends = {"terminated": ended} if self.timeout_is_terminal else {"truncated": ended}
        reward = jnp.broadcast_to(team, (self.players,))
        return state, self.transition(reward, self._observation(state), metrics=self._metrics(gap), **ends)

    def _observation(self, state: State) -> Any:
        view = jnp.broadcast_to(self.global_state(state), (self.players, self.players))
        if self.agent_id:
            view = jnp.concatenate([view, np.eye(self.players, dtype=np.float32)], axis=1)
        return self.observe_view(view, state.step_count)

    def _metrics(self, gap: jax.Array) -> dict[str, Any]:
        return {"gap": gap, "spread": rules.reward(gap, 0.0, self.players)}

    def global_state(self, state: State) -> jax.Array:
        """[n] float32 positions divided by L."""
        # The quotient may be rounded above 1 when it is compiled to a product.
        return jnp.minimum(state.x / np.float32(self.length), 1.0)

    def render(self, state: State) -> np.ndarray:
        """uint8 [64, 640, 3]: the segment with its evenly spaced slots (ticks) and the agents (discs)."""
        picture = raster.canvas(64, 640)
        scale, left, middle = 600 / self.length, 20, 32
        raster.line(picture, (middle, left), (middle, left + 600), raster.LINE, 3)
        for place in scripted.slots(self.players):
            raster.line(
                picture, (middle - 14, left + place * scale), (middle + 14, left + place * scale), raster.LINE, 2
            )
        for agent, place in enumerate(np.asarray(state.x)):
            raster.disc(picture, middle, left + place * scale, 8, raster.agent_colour(agent), 0.8)
        return picture

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`slot` (by id) and `slot_by_rank` spread out evenly; `stay` does not move."""
        return {"slot": scripted.slot, "slot_by_rank": scripted.slot_by_rank, "stay": scripted.stay}
