"""Gift refinements: the world `gift`, after Melting Pot's `gift_refinements`.

Raw tokens lie about. A token is worth 1 to whoever consumes it, but given away it becomes three of a better type, and
each of those once more: keep 1, or give and hope. A trust game in space. Rules: `rules`; moves, beams and views:
`marl_bench.envs.grid`.

| | content |
|---|---|
| action | 0 noop, 1-4 forward, backward, step left, step right, 5-6 turn left, turn right, 7 give, 8 consume |
| agents_view | [N, 11, 11, C] uint8: channels of every grid world and `token` (0, 1); in the own cell the own tokens of each type |
| reward | 1 for each token consumed, whatever its type |
| ends | truncated after `horizon` steps, or by chance as in Melting Pot |
| metrics | those of every grid world; tokens `picked`, `gifts`, `consumed`; `cooperations`: gifts that refine, `defections`: raw tokens consumed; `tokens` on the map, `held` |
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import ScriptedPolicy, check_integer, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.coop_mining import maps
from marl_bench.envs.gift import rules, scripted
from marl_bench.envs.grid import viewer
from marl_bench.envs.grid.avatars import cells
from marl_bench.envs.grid.beams import Beam, Shot
from marl_bench.envs.grid.scripted import from_state
from marl_bench.envs.grid.sites import chance
from marl_bench.envs.grid.world import Frame, WorldState

Array = jax.Array

CONSUME = 8

OWN = ("own_raw", "own_refined", "own_refined_twice")
"""Channels with the own inventory."""


@struct.dataclass
class Tokens:
    """What the world adds to the state, on M = 625 cells.

    Attributes:
      token: [M] bool, where raw tokens lie.
      inventory: [N, 3] int8, tokens that each agent holds: raw, refined once, refined twice.
    """

    token: Array
    inventory: Array


@struct.dataclass
class Gift(maps.MineWorld):
    """Gift refinements; actions, views, reward and metrics stand in the module's docstring.

    Raises: what `GridWorld` raises.
    """

    rate: float = field(0.0002, doc="probability that a token appears on an empty cell in a step", unit="probability")
    multiplier: int = field(3, doc="m, tokens that a given one becomes; a whole number, 1 to 127", unit="tokens")
    capacity: int = field(15, static=True, doc="tokens of one type that an agent can hold; 1 to 127", unit="tokens")
    length: int = field(5, static=True, doc="cells that the giving beam reaches; 1 to 9", unit="cells")
    wait: int = field(2, doc="steps after a gift without another; 0 to 127", unit="steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "rate", 0.0, 1.0)
        check_range(self, "multiplier", 1, 127)
        check_integer(self, "capacity", 1, 127)
        check_integer(self, "length", 1, 9)
        check_range(self, "wait", 0, 127)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def beams(self) -> tuple[Beam, ...]:
        """The giving beam, action 7; the first avatar stops it."""
        return (Beam("give", self.length, 0, self.wait),)

    @property
    def more_actions(self) -> tuple[str, ...]:
        """Action 8."""
        return ("consume",)

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """Raw tokens on the map."""
        return ("token",)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of a view; three count the own tokens."""
        names = super().channels
        first_id = len(names) - (self.players if self.show_ids else 0)
        return (*names[:first_id], *OWN, *names[first_id:])

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """Views are uint8, up to `capacity`."""
        spec = super().observation_spec
        view = dataclasses.replace(spec.agents_view, maximum=self.capacity)
        return dataclasses.replace(spec, agents_view=view)

    @property
    def count_names(self) -> tuple[str, ...]:
        """Events by agent."""
        return ("picked", "gifts", "consumed", "cooperations", "defections")

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of this world's metrics."""
        return {
            "picked": "raw tokens taken from the map in this step",
            "gifts": "tokens given in this step",
            "consumed": "tokens consumed in this step",
            "cooperations": "gifts of this step that refine",
            "defections": "raw tokens consumed in this step",
            "tokens": "raw tokens on the map",
            "held": "tokens held by all agents",
        }

    @property
    def num_words(self) -> int:
        """One for each cell."""
        return self.terrain.size

    # --- dynamics --------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> Tokens:
        """No tokens anywhere. `drawn`: [M] uint32, not used."""
        del drawn
        return Tokens(jnp.zeros(self.terrain.size, bool), jnp.zeros((self.players, rules.TYPES), jnp.int8))

    def grow(self, frame: Frame) -> Frame:
        """Phase 2: tokens appear on free cells on which nobody stands."""
        token = frame.resources.token
        here = np.arange(self.terrain.size, dtype=np.int32) == cells(frame.avatars, self.terrain)[:, None]
        new = chance(frame.words, self.rate) & ~(jnp.any(here, axis=0) | maps.barren())
        return frame.holding(frame.resources.replace(token=token | new))

    def enter(self, frame: Frame) -> Frame:
        """Phase 4: tokens are picked up; then whoever wants to consumes."""
        tokens = frame.resources
        at = cells(frame.avatars, self.terrain)
        token, inventory, took = rules.pick_up(tokens.token, tokens.inventory, at, self.capacity)
        inventory, eaten = rules.consume(inventory, frame.actions == CONSUME)
        total = jnp.sum(eaten, axis=1, dtype=jnp.int32)
        frame = frame.holding(Tokens(token, inventory)).paid(total.astype(jnp.float32))
        return frame.counted(picked=took, consumed=jnp.minimum(total, 127), defections=eaten[:, 0])

    def strike(self, frame: Frame, beam: Beam, shot: Shot) -> Frame:
        """Phase 5: gifts move, all at once."""
        del beam
        tokens = frame.resources
        inventory, gone = rules.give(tokens.inventory, shot.hits, self.multiplier, self.capacity)
        frame = frame.holding(tokens.replace(inventory=inventory))
        return frame.counted(gifts=jnp.any(gone, axis=1), cooperations=gone[:, 0] | gone[:, 1])

    # --- views -----------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[25, 25] uint8: bit 0 token."""
        return state.resources.token.reshape(self.terrain.wall.shape).astype(jnp.uint8)

    def views(self, state: WorldState) -> Array:
        """[N, 11, 11, C] uint8 views, with the own tokens in the own cell."""
        window, first = self.window, self.channels.index(OWN[0])
        place = (slice(None), window.ahead, window.left, slice(first, first + rules.TYPES))
        # The base leaves the channels that it does not know at 0.
        return super().views(state).at[place].set(state.resources.inventory.astype(jnp.uint8))

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Metrics that the state alone tells."""
        tokens = state.resources
        return {"tokens": jnp.sum(tokens.token), "held": jnp.sum(tokens.inventory, dtype=jnp.int32)}

    def global_state(self, state: WorldState) -> Array:
        """[S] float32: see `GridWorld.global_state`; then all inventories."""
        held = state.resources.inventory.reshape(-1).astype(jnp.float32)
        return jnp.concatenate([super().global_state(state), held])

    def picture(self, state: WorldState) -> viewer.Picture:
        """Tokens as yellow discs."""
        token = np.asarray(state.resources.token).reshape(self.terrain.wall.shape)
        things = ((token, raster.YELLOW),)
        return viewer.Picture(self.terrain.wall.astype(np.int8), (viewer.FLOOR, viewer.WALL), things)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` gives what can be refined to the nearest agent, `defect` consumes what it finds."""
        return {
            "cooperate": from_state(lambda state, key: scripted.cooperate(state, self.terrain, self.length, key)),
            "defect": from_state(lambda state, key: scripted.defect(state, self.terrain, key)),
        }
