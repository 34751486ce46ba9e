"""Externality mushrooms: `mushrooms`.

Four kinds of mushrooms differ in whom they feed: red the eater alone, green everybody, blue everybody else, orange
nobody (and it kills red ones). What is eaten decides, through its spores, what grows: eating red only ends in an empty
field.
Rules: `rules`; moves, beams and views: `marl_bench.envs.grid`. Source: Melting Pot 2, `externality_mushrooms__dense`.

| | content |
|---|---|
| action | 0 noop, 1-4 forward, backward, step left, step right, 5-6 turn left, turn right, 7 zap |
| agents_view | [N, 11, 11, C] uint8 of 0/1; the world's channels are the four kinds |
| reward | what one's own and the others' eating gives, see `rules.eat` |
| ends | truncated after `horizon` steps, or by chance as in Melting Pot |
| metrics | `red`, `green`, `blue`, `orange`: eaten in this step; `destroyed`; `mushrooms`: on the map |
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_range, field
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import geometry
from marl_bench.envs.grid.beams import Beam, Shot
from marl_bench.envs.grid.geometry import Terrain
from marl_bench.envs.grid.world import Frame, GridWorld, WorldState
from marl_bench.envs.mushrooms import rules, scripted, viewer

Array = jax.Array

HEIGHT, WIDTH = 11, 21

START = {
    rules.RED: ((1, 1), (2, 8), (7, 8)),
    rules.GREEN: ((1, 15), (4, 11), (9, 13)),
    rules.BLUE: ((5, 3), (6, 18), (9, 4)),
    rules.ORANGE: ((5, 9),),
}
"""Cells of the first mushrooms, by kind."""

KINDS = ("red", "green", "blue", "orange")


@functools.lru_cache
def _field() -> Terrain:
    return geometry.terrain(HEIGHT, WIDTH)


def first_kinds() -> np.ndarray:
    """[231] int8 kinds at the reset."""
    board = np.zeros((HEIGHT, WIDTH), np.int8)
    for kind, cells in START.items():
        for row, col in cells:
            board[row, col] = kind
    return board.reshape(-1)


@struct.dataclass
class Patch:
    """What the world adds to the state, on M = 231 cells for N agents.

    Attributes:
      kind: [M] int8, 0 nothing, 1 red, 2 green, 3 blue, 4 orange.
      life: [M] int16, steps until the mushroom perishes; 0 for orange ones and empty cells.
      marked: [N] int8, steps in which another zap removes the agent.
    """

    kind: Array
    life: Array
    marked: Array


@struct.dataclass
class Mushrooms(GridWorld):
    """Externality mushrooms; actions, views, rewards and metrics stand in the module's docstring.

    Raises: what `GridWorld` raises.
    """

    FEWEST_PLAYERS: ClassVar[int] = 2
    players: int = field(5, static=True, doc="N, number of agents; 2 to 126", unit="agents")
    red_reward: float = field(1.0, doc="to the eater", unit="reward")
    green_reward: float = field(2.0, doc="shared equally by all", unit="reward")
    blue_reward: float = field(3.0, doc="shared equally by all but the eater", unit="reward")
    orange_reward: float = field(-1.0, doc="shared equally by all", unit="reward")
    red_digestion: int = field(0, doc="steps that the eater is frozen; 0 to 127", unit="steps")
    green_digestion: int = field(10, doc="steps that the eater is frozen; 0 to 127", unit="steps")
    blue_digestion: int = field(15, doc="steps that the eater is frozen; 0 to 127", unit="steps")
    orange_digestion: int = field(15, doc="steps that the eater is frozen; 0 to 127", unit="steps")
    red_life: int = field(200, doc="steps until it perishes, 0 for never; at most 32767", unit="steps")
    green_life: int = field(100, doc="steps until it perishes, 0 for never; at most 32767", unit="steps")
    blue_life: int = field(75, doc="steps until it perishes, 0 for never; at most 32767", unit="steps")
    vanishing: float = field(0.25, doc="probability that a red one vanishes when an orange one is eaten")
    zap_wait: int = field(3, doc="steps after a zap without another; 0 to 127", unit="steps")
    zap_freeze: int = field(25, doc="steps that a first zap freezes; 0 to 127", unit="steps")
    zap_memory: int = field(50, doc="steps in which a second zap removes; 0 to 127", unit="steps")
    zap_absence: int = field(50, doc="steps off the map after a second zap; 1 to 32766", unit="steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in KINDS:
            check_range(self, f"{kind}_reward")
            check_range(self, f"{kind}_digestion", 0, 127)
        for kind in KINDS[:3]:
            check_range(self, f"{kind}_life", 0, 32767)
        check_range(self, "vanishing", 0.0, 1.0)
        for name in ("zap_wait", "zap_freeze", "zap_memory"):
            check_range(self, name, 0, 127)
        check_range(self, "zap_absence", 1, 32766)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def terrain(self) -> Terrain:
        """An open field of 11 x 21 cells; avatars appear anywhere."""
        return _field()

    @property
    def beams(self) -> tuple[Beam, ...]:
        """The zap, action 7."""
        return (Beam("zap", length=3, radius=1, wait=self.zap_wait),)

    @property
    def freezes(self) -> bool:
        """Digestion and zaps freeze."""
        return True

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """The four kinds."""
        return KINDS

    @property
    def count_names(self) -> tuple[str, ...]:
        """Events by agent: eating green or blue is cooperation, eating red defection."""
        return (*KINDS, "destroyed", "removals", "cooperations", "defections")

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of this world's metrics."""
        return {
            **{kind: f"{kind} mushrooms eaten in this step" for kind in KINDS},
            "destroyed": "mushrooms destroyed by zaps in this step",
            "removals": "agents removed by a second zap in this step",
            "cooperations": "green and blue mushrooms eaten in this step",
            "defections": "red mushrooms eaten in this step",
            "mushrooms": "mushrooms on the map",
        }

    @property
    def num_words(self) -> int:
        """Half a word for each cell, then ten for each agent."""
        return (self.terrain.size + 1) // 2 + 10 * self.players

    @property
    def _lives(self) -> tuple[Any, ...]:
        return self.red_life, self.green_life, self.blue_life, 0

    # --- dynamics --------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> Patch:
        """The ten mushrooms of `START`. `drawn`: [W] uint32, not used."""
        del drawn
        kind = jnp.asarray(first_kinds())
        return Patch(kind, rules.by_kind(kind, self._lives, jnp.int16), jnp.zeros(self.players, jnp.int8))

    def grow(self, frame: Frame) -> Frame:
        """Phase 2: mushrooms age, marks fade."""
        patch = frame.resources
        kind, life = rules.age(patch.kind, patch.life)
        return frame.holding(Patch(kind, life, jnp.maximum(patch.marked - 1, 0).astype(jnp.int8)))

    def enter(self, frame: Frame) -> Frame:
        """Phase 4: agents eat what they stand on, spores spread, reds vanish, eaters digest."""
        patch, avatars = frame.resources, frame.avatars
        here = av.cells(avatars, self.terrain).astype(jnp.int16)
        occupied = jnp.any(here[:, None] == np.arange(self.terrain.size, dtype=np.int16), axis=0)
        eaten = av.look_up(jnp.append(patch.kind, jnp.int8(0)), jnp.where(avatars.alive, here, self.terrain.size))
        left = jnp.where(occupied, rules.NOTHING, patch.kind)
        cells = (self.terrain.size + 1) // 2
        halves = jnp.concatenate([frame.words[:cells] & np.uint32(0xFFFF), frame.words[:cells] >> np.uint32(16)])
        fraction = halves[: self.terrain.size].astype(jnp.float32) * np.float32(2.0**-16)
        left = rules.vanish(left, eaten, fraction, self.vanishing)
        grown = rules.release(eaten, (left == 0) & ~occupied, frame.words[cells:].reshape(-1, 10))
        life = jnp.where(left == 0, rules.by_kind(grown, self._lives, jnp.int16), patch.life)
        frame = frame.holding(Patch(jnp.where(grown > 0, grown, left), life, patch.marked))
        times = (self.red_digestion, self.green_digestion, self.blue_digestion, self.orange_digestion)
        digesting = jnp.where(eaten > 0, rules.by_kind(eaten, times, jnp.int8), avatars.frozen)
        frame = frame.replace(avatars=avatars.replace(frozen=digesting))  # pyright: ignore[reportAttributeAccessIssue]
        values = (self.red_reward, self.green_reward, self.blue_reward, self.orange_reward)
        counts = {kind: eaten == number for number, kind in enumerate(KINDS, start=1)}
        counts["cooperations"] = (eaten == rules.GREEN) | (eaten == rules.BLUE)
        counts["defections"] = eaten == rules.RED
        return frame.paid(rules.eat(eaten, *values)).counted(**counts)

    def strike(self, frame: Frame, beam: Beam, shot: Shot) -> Frame:
        """Phase 5: zaps destroy the mushrooms that they cross, freeze, and remove who is marked."""
        del beam
        patch, avatars = frame.resources, frame.avatars
        flat = jnp.where(shot.lit, shot.flat, self.terrain.size).astype(jnp.int16)
        crossed = flat[:, :, None] == np.arange(self.terrain.size, dtype=np.int16)
        burnt = jnp.any(crossed, axis=1) & (patch.kind > 0)
        gone = jnp.any(burnt, axis=0)
        hits = jnp.sum(shot.hits, axis=0)
        removed, marked, frozen = rules.zapped(hits, patch.marked, avatars.frozen, self.zap_freeze, self.zap_memory)
        avatars = avatars.replace(frozen=frozen)  # pyright: ignore[reportAttributeAccessIssue]
        frame = frame.replace(avatars=av.remove(avatars, removed, self.zap_absence))  # pyright: ignore[reportAttributeAccessIssue]
        kind, life = jnp.where(gone, rules.NOTHING, patch.kind), jnp.where(gone, jnp.int16(0), patch.life)
        frame = frame.holding(Patch(kind, life, marked))
        return frame.counted(destroyed=jnp.sum(burnt, axis=1), removals=removed)

    # --- views -----------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[11, 21] uint8: bit k - 1 for kind k."""
        kind = state.resources.kind.astype(jnp.uint8)
        code = jnp.where(kind > 0, jnp.left_shift(jnp.uint8(1), jnp.maximum(kind, 1) - jnp.uint8(1)), jnp.uint8(0))
        return code.reshape(HEIGHT, WIDTH)

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Metrics that the state alone tells."""
        return {"mushrooms": jnp.sum(state.resources.kind > 0)}

    def global_state(self, state: WorldState) -> Array:
        """[S] float32: see `GridWorld.global_state`; then the life of every cell's mushroom and the agents' marks."""
        more = (state.resources.life, state.resources.marked)
        return jnp.concatenate([super().global_state(state), *(x.astype(jnp.float32) for x in more)])

    def picture(self, state: WorldState) -> Any:
        """Mushrooms as discs in their colours."""
        return viewer.picture(state.resources, self.terrain.wall)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` eats blue and green, `defect` red only; both go round what they do not eat."""
        return {
            "cooperate": scripted.eater(self, (rules.BLUE, rules.GREEN)),
            "defect": scripted.eater(self, (rules.RED,)),
        }
