"""Cooperative mining: `coop_mining`.

Iron is worth little and mined alone; gold is worth much, but two agents must hit it within three steps. A stag hunt in
space: who goes for gold needs a partner who does so as well. Rules: `rules`; moves, beams and views:
`marl_bench.envs.grid`. Source: Melting Pot 2, `coop_mining`.

| | content |
|---|---|
| action | 0 noop, 1-4 forward, backward, step left, step right, 5-6 turn left, turn right, 7 mine |
| agents_view | [N, 11, 11, C] uint8 of 0/1; the world's channels are iron, gold, gold that somebody has begun to mine |
| reward | `iron_reward` to who takes iron, `gold_reward` to both who take gold |
| ends | truncated after `horizon` steps, or by chance as in Melting Pot |
| metrics | `iron`, `gold`: taken in this step; `iron_sites`, `gold_sites`: on the map |
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_range, field
from marl_bench.envs.coop_mining import maps, rules, scripted, viewer
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid.beams import Aim, Beam, Shot
from marl_bench.envs.grid.world import Frame, WorldState
from marl_bench.random import unit_interval

Array = jax.Array


@struct.dataclass
class Ore:
    """What the world adds to the state, on M = 625 cells.

    Attributes:
      kind: [M] int8, 0 nothing, 1 iron, 2 gold.
      miner: [M] int8, agent that has begun to mine the gold there; -1 for nobody.
      countdown: [M] int8, steps until that is forgotten.
    """

    kind: Array
    miner: Array
    countdown: Array


@struct.dataclass
class CoopMining(maps.MineWorld):
    """Cooperative mining; actions, views, rewards and metrics stand in the module's docstring.

    Raises: what `GridWorld` raises.
    """

    iron_reward: float = field(1.0, doc="for taking iron", unit="reward")
    gold_reward: float = field(8.0, doc="to each of the two who take gold", unit="reward")
    iron_rate: float = field(0.0002, doc="probability in a step that iron appears on an empty site", unit="probability")
    gold_rate: float = field(0.00008, doc="the same for gold, where no iron appears", unit="probability")
    window_steps: int = field(
        3, doc="steps in which the second miner must come, the first's included; 1 to 127", unit="steps"
    )
    wait: int = field(2, doc="steps after a shot without another; 0 to 127", unit="steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iron_reward", "gold_reward"):
            check_range(self, name)
        for name in ("iron_rate", "gold_rate"):
            check_range(self, name, 0.0, 1.0)
        check_range(self, "window_steps", 1, 127)
        check_range(self, "wait", 0, 127)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def beams(self) -> tuple[Beam, ...]:
        """The mining beam, action 7; avatars do not stop it."""
        return (Beam("mine", length=3, radius=0, wait=self.wait, stopped_by_avatars=False),)

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """Iron, gold that nobody mines, gold that somebody has begun to mine."""
        return ("iron", "gold", "gold_begun")

    @property
    def count_names(self) -> tuple[str, ...]:
        """Events by agent: taking gold is cooperation, taking iron defection."""
        return ("iron", "gold", "cooperations", "defections")

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of this world's metrics."""
        return {
            "iron": "iron taken in this step",
            "gold": "shares of gold taken in this step, two for each ore",
            "cooperations": "the same as gold",
            "defections": "the same as iron",
            "iron_sites": "iron on the map",
            "gold_sites": "gold on the map",
        }

    @property
    def num_words(self) -> int:
        """Half a word for each cell, then one for each agent."""
        return (self.terrain.size + 1) // 2 + self.players

    # --- dynamics --------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> Ore:
        """No ore. `drawn`: [W] uint32, not used."""
        del drawn
        nothing = jnp.zeros(self.terrain.size, jnp.int8)
        return Ore(nothing, nothing + rules.NOBODY, nothing)

    def grow(self, frame: Frame) -> Frame:
        """Phase 2: first miners whose time is over are forgotten; ore appears."""
        ore = frame.resources
        miner, countdown = rules.forget(ore.miner, ore.countdown)
        here = av.cells(frame.avatars, self.terrain).astype(jnp.int16)
        occupied = jnp.any(here[:, None] == np.arange(self.terrain.size, dtype=np.int16), axis=0)
        drawn = unit_interval(rules.stretch(frame.words[: -self.players], self.terrain.size))
        kind = rules.grow(ore.kind, occupied | maps.barren(), drawn, self.iron_rate, self.gold_rate)
        return frame.holding(Ore(kind, miner, countdown))

    def blocks(self, frame: Frame, beam: Beam, aimed: Aim) -> Array:
        """[N, 3] bool: ore stops the beam."""
        del beam
        return self._kind_at(frame, aimed.flat) > 0

    def _kind_at(self, frame: Frame, flat: Array) -> Array:
        return av.look_up(jnp.append(frame.resources.kind, jnp.int8(0)), flat)

    def strike(self, frame: Frame, beam: Beam, shot: Shot) -> Frame:
        """Phase 5: each shot hits the first ore in front of it."""
        del beam
        ore = frame.resources
        found = shot.lit & (self._kind_at(frame, shot.flat) > 0)
        target = jnp.max(jnp.where(found, shot.flat, -1), axis=1)
        safe = jnp.maximum(target, 0)
        kind = jnp.where(target >= 0, av.look_up(ore.kind, safe), rules.NONE)
        miner = jnp.where(target >= 0, av.look_up(ore.miner, safe), rules.NOBODY)
        mined = rules.mine(target, kind, miner, rules.distinct(frame.words[-self.players :]))
        cells = rules.apply(ore.kind, ore.miner, ore.countdown, target, mined, self.window_steps)
        frame = frame.holding(Ore(*cells))
        frame = frame.paid(self.iron_reward * mined.iron + self.gold_reward * mined.gold.astype(jnp.float32))
        return frame.counted(iron=mined.iron, gold=mined.gold, cooperations=mined.gold, defections=mined.iron)

    # --- views -----------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[25, 25] uint8: bit 0 iron, bit 1 gold, bit 2 gold that somebody has begun to mine."""
        ore = state.resources
        gold = jnp.where(ore.miner >= 0, jnp.uint8(4), jnp.uint8(2))
        code = jnp.where(ore.kind == rules.GOLD, gold, (ore.kind == rules.IRON).astype(jnp.uint8))
        return code.reshape(self.terrain.wall.shape)

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Metrics that the state alone tells."""
        kind = state.resources.kind
        return {"iron_sites": jnp.sum(kind == rules.IRON), "gold_sites": jnp.sum(kind == rules.GOLD)}

    def global_state(self, state: WorldState) -> Array:
        """[S] float32: see `GridWorld.global_state`; then the first miner + 1 and the countdown of every cell."""
        more = (state.resources.miner + 1, state.resources.countdown)
        return jnp.concatenate([super().global_state(state), *(x.astype(jnp.float32) for x in more)])

    def picture(self, state: WorldState) -> Any:
        """Iron grey, gold yellow, gold that somebody has begun to mine orange."""
        return viewer.picture(state.resources, self.terrain.wall)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` joins others at gold, and takes iron where there is no gold; `defect` takes iron only."""
        return {"cooperate": scripted.miner(self, gold=True), "defect": scripted.miner(self, gold=False)}
