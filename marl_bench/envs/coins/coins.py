"""Coins on a large grid, after Melting Pot's `coins`: the world `coins`.

Two agents on a bare rectangle whose size is drawn for every episode. Coins of their two colours appear on empty cells.
Any coin pays its collector; a coin of the other's colour costs the other agent.

| | content |
|---|---|
| action | 7: noop, forward, backward, step left, step right, turn left, turn right |
| agents_view | [2, 11, 11, C] uint8: see `GridWorld.channels`, with `coin_own`, `coin_other`; outside the field is wall |
| reward | self_match, self_mismatch to who takes a coin of the own, of the other's colour; other_match, other_mismatch to the other agent |
| ends | truncated after `horizon` steps; with end="mp" from there on by chance |
| metrics | those of every grid world; `cooperations` and `defections`: coins of the own and of the other's colour taken; `coins` |
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, TimeStep, check_integer, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.coins import rules, scripted
from marl_bench.envs.grid import viewer
from marl_bench.envs.grid.avatars import cells
from marl_bench.envs.grid.geometry import Terrain, terrain
from marl_bench.envs.grid.scripted import from_state
from marl_bench.envs.grid.world import Frame, GridWorld, WorldState
from marl_bench.random import words

Array = jax.Array

_START_STREAM = 1
"""Stream of the draw that says who starts where; stream 0 is the base's."""


@struct.dataclass
class Resources:
    """What is on the board.

    Attributes:
      kind: [H * W] int8: 0 nothing, 1 coin of agent 0's colour, 2 of agent 1's.
      height: [] int8, rows of this episode's playing field. width: [] int8, its columns.
    """

    kind: Array
    height: Array
    width: Array


@functools.lru_cache(maxsize=32)
def _board(height: int, width: int) -> Terrain:
    return terrain(height, width)


@struct.dataclass
class Coins(GridWorld):
    """Coins; action, observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    players: int = field(2, static=True, doc="N; this game has 2 agents")
    end_chance: float = field(0.05, doc="with end='mp': probability at each chance to end", unit="probability")
    min_height: int = field(10, static=True, doc="fewest rows of the playing field; >= 4", unit="cells")
    max_height: int = field(15, static=True, doc="most rows; equal to min_height for a fixed size", unit="cells")
    min_width: int = field(10, static=True, doc="fewest columns; >= 4", unit="cells")
    max_width: int = field(15, static=True, doc="most columns", unit="cells")
    rate: float = field(0.0005, doc="probability that a coin appears on an empty cell in a step", unit="probability")
    self_match: float = field(1.0, doc="to who takes a coin of the own colour", unit="reward")
    self_mismatch: float = field(1.0, doc="to who takes a coin of the other's colour", unit="reward")
    other_match: float = field(0.0, doc="to the other agent, for a coin of the taker's colour", unit="reward")
    other_mismatch: float = field(-2.0, doc="to the other agent, for a coin of its colour", unit="reward")

    def __post_init__(self) -> None:
        for low, high in (("min_height", "max_height"), ("min_width", "max_width")):
            check_integer(self, low, 4, 64)
            check_integer(self, high, getattr(self, low), 64)
        super().__post_init__()
        check_integer(self, "players", 2, 2)
        if self.spawns != "map":
            raise ValueError(f"spawns={self.spawns!r}: agents start near two corners, 'map' (field of Coins)")
        check_range(self, "rate", 0.0, 1.0)
        for name in ("self_match", "self_mismatch", "other_match", "other_mismatch"):
            check_range(self, name)

    # --- the map -----------------------------------------------------------------------------------

    @property
    def terrain(self) -> Terrain:
        """The largest playing field; what an episode does not use is closed."""
        return _board(self.max_height, self.max_width)

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """Closed cells of the board (which `views` also shows as wall), coins of the own and of the other's colour."""
        return ("closed", "coin_own", "coin_other")

    @property
    def count_names(self) -> tuple[str, ...]:
        """Coins taken, by colour."""
        return ("cooperations", "defections")

    @property
    def num_words(self) -> int:
        """One a cell, which includes the two of the reset."""
        return self.terrain.size

    def field_mask(self, resources: Resources) -> Array:
        """[H, W] bool, cells of this episode's playing field."""
        return rules.field_mask(resources.height, resources.width, self.max_height, self.max_width)

    # --- hooks -------------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> Resources:
        """An empty field of uniform height and width."""
        height = rules.uniform_between(drawn[0], self.min_height, self.max_height)
        width = rules.uniform_between(drawn[1], self.min_width, self.max_width)
        return Resources(jnp.zeros(self.terrain.size, jnp.int8), height, width)

    def reset(self, key: Array) -> tuple[WorldState, TimeStep]:
        """Draw the field and put the agents near two opposite corners. `key`: [] typed PRNG key of the episode."""
        state, timestep = super().reset(key)
        swap = words(key, jnp.int32(0), _START_STREAM, 1)[0] & np.uint32(1)
        row, col = rules.starts(state.resources.height, state.resources.width, swap)
        state = state.replace(avatars=state.avatars.replace(row=row, col=col))  # pyright: ignore[reportAttributeAccessIssue]
        observation = timestep.observation._replace(agents_view=self.views(state))
        return state, timestep.replace(observation=observation)  # pyright: ignore[reportAttributeAccessIssue]

    def grow(self, frame: Frame) -> Frame:
        """Coins appear on empty cells of the field on which nobody stands."""
        resources = frame.resources
        here = np.arange(self.terrain.size, dtype=np.int32) == cells(frame.avatars, self.terrain)[:, None]
        free = self.field_mask(resources).reshape(-1) & ~jnp.any(here, axis=0)
        kind = rules.grow(resources.kind, free, frame.words, self.rate)
        return frame.holding(resources.replace(kind=kind))

    def solid(self, resources: Resources) -> Array:
        """[H * W + 1] bool: all but the playing field."""
        return jnp.append(~self.field_mask(resources).reshape(-1), True)

    def enter(self, frame: Frame) -> Frame:
        """Whoever stands on a coin has just entered its cell, and takes it."""
        kind, own, other = rules.collect(frame.resources.kind, cells(frame.avatars, self.terrain))
        numbers = (self.self_match, self.self_mismatch, self.other_match, self.other_mismatch)
        frame = frame.holding(frame.resources.replace(kind=kind))
        return frame.paid(rules.pay(own, other, *numbers)).counted(cooperations=own, defections=other)

    # --- views -------------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[H, W] uint8: bit 0 closed, bit 1 coin of agent 0's colour, bit 2 of agent 1's."""
        closed = ~self.field_mask(state.resources)
        kind = state.resources.kind.reshape(closed.shape).astype(jnp.uint8)
        return closed.astype(jnp.uint8) | (kind << np.uint8(1))

    def decode(self, code: Array) -> Array:
        """[2, cells] bits of closed, own and other coin: agent 1 sees the colours exchanged."""
        exchanged = (code & 1) | ((code & 2) << 1) | ((code & 4) >> 1)
        return jnp.where(np.array([[False], [True]]), exchanged, code)

    def views(self, state: WorldState) -> Array:
        """[2, 11, 11, C] uint8 views; closed cells are walls, too."""
        seen = super().views(state)
        return jnp.concatenate([seen[..., :1] | seen[..., 1:2], seen[..., 1:]], axis=-1)

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Coins that lie on the board."""
        return {"coins": jnp.sum(state.resources.kind > 0)}

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of the world's own metrics."""
        return {
            "cooperations": "coins of the own colour taken in this step, both agents",
            "defections": "coins of the other's colour taken in this step, both agents",
            "coins": "coins on the board after the step",
        }

    def picture(self, state: WorldState) -> viewer.Picture:
        """The field, and coins as discs in the colour of their agent."""
        board = np.asarray(~self.field_mask(state.resources)).astype(np.int8)
        kind = np.asarray(state.resources.kind).reshape(board.shape)
        things = tuple((kind == agent + 1, raster.agent_colour(agent)) for agent in range(2))
        return viewer.Picture(board, (viewer.FLOOR, viewer.WALL), things)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` collects coins of the own colour only, `defect` the nearest coin."""

        def walk(wanted: Array, state: WorldState, key: Array) -> Array:
            return scripted.nearest(state, wanted, self.max_height, self.max_width, key)

        def own(state: WorldState, key: Array) -> Array:
            return walk(state.resources.kind == np.array([[1], [2]], np.int8), state, key)

        def any_coin(state: WorldState, key: Array) -> Array:
            return walk(jnp.broadcast_to(state.resources.kind > 0, (2, self.terrain.size)), state, key)

        return {"cooperate": from_state(own), "defect": from_state(any_coin)}
