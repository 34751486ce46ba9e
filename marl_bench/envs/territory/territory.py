"""Territory: the world `territory`, after Melting Pot's `territory`.

Resource walls pay whoever holds them. Claiming is free and so is taking what another holds; shots destroy walls for good
and remove agents. With all walls held, the group's income is the same however they are divided, so that equality
and efficiency can be told apart. Rules: `rules`; moves, beams and views: `marl_bench.envs.grid`.

| | content |
|---|---|
| action | 0 noop, 1-4 forward, backward, step left, step right, 5-6 turn left, turn right, 7 zap, 8 claim |
| agents_view | [N, 11, 11, C] uint8 of 0/1: see `GridWorld.channels` and `CHANNELS` |
| reward | each dry wall (held for `dry_steps`) pays its owner 1 with probability `pay_rate` in a step, or that much for certain |
| ends | truncated after `horizon` steps, or by chance as in Melting Pot |
| metrics | those of every grid world; walls newly `claims`; of these `cooperations` from nobody and `defections` from others; `owned`, `dry`, `destroyed` |
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_choice, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import viewer
from marl_bench.envs.grid.beams import Aim, Beam, Shot, struck
from marl_bench.envs.grid.geometry import Terrain, terrain
from marl_bench.envs.grid.scripted import from_state
from marl_bench.envs.grid.sites import chance, number_of, spread
from marl_bench.envs.grid.world import Frame, GridWorld, WorldState
from marl_bench.envs.territory import maps, rules, scripted

Array = jax.Array

CHANNELS = ("unclaimed", "mine_wet", "mine_dry", "others_wet", "others_dry", "damaged", "destroyed")
"""What a view tells of a resource wall; wet: not yet held long enough to pay."""
REWARDS = ("sampled", "expected")


@struct.dataclass
class Walls:
    """What the world adds to the state, for M resource walls.

    Attributes:
      owner: [M] int8, -1 for nobody.
      age: [M] int16, steps since the wall was claimed.
      health: [M] int8, 2 whole, 1 damaged, 0 destroyed.
      since: [M] int16, steps since it was last shot.
      mark: [N] int8, steps until an avatar's mark clears.
      doomed: [N] bool, avatars that leave for good at the next step.
    """

    owner: Array
    age: Array
    health: Array
    since: Array
    mark: Array
    doomed: Array


@functools.lru_cache(maxsize=4)
def _terrain(name: str) -> Terrain:
    resource, wall, spawn = maps.layout(name)
    walls, spawns = (list(zip(*np.nonzero(grid), strict=True)) for grid in (wall, spawn))
    return terrain(*resource.shape, walls=walls, spawns=spawns, torus=name == "rooms")


@struct.dataclass
class Territory(GridWorld):
    """Territory; actions, views, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    players: int = field(
        9, static=True, doc="N, number of agents; at most the number of spawn cells (18, 9)", unit="agents"
    )
    layout: str = field("open", static=True, doc="map: open (21 x 37) or rooms (nine on a torus of 21 x 21)")
    rewards: str = field(
        "sampled", static=True, doc="whether dry walls pay by chance or their expectation: sampled, expected"
    )
    pay_rate: float = field(0.01, doc="probability in a step that a dry wall pays 1", unit="probability")
    dry_steps: int = field(25, doc="steps that a wall must be held before it pays", unit="steps")
    repair_rate: float = field(0.1, doc="probability in a step that a damaged wall is whole again", unit="probability")
    repair_delay: int = field(15, doc="steps without a shot before that can happen", unit="steps")
    wait: int = field(4, doc="steps after a shot without another; 0 to 127", unit="steps")
    freeze_steps: int = field(25, doc="steps that the first shot freezes an avatar; 1 to 127", unit="steps")
    mark_steps: int = field(50, doc="steps in which a second shot removes it for good; 1 to 127", unit="steps")

    def __post_init__(self) -> None:
        check_choice(self, "layout", maps.MAPS)
        check_choice(self, "rewards", REWARDS)
        super().__post_init__()
        check_range(self, "pay_rate", 0.0, 1.0)
        check_range(self, "repair_rate", 0.0, 1.0)
        check_range(self, "dry_steps", 0, int(rules.LONG))
        check_range(self, "repair_delay", 0, int(rules.LONG))
        check_range(self, "wait", 0, 127)
        check_range(self, "freeze_steps", 1, 127)
        check_range(self, "mark_steps", 1, 127)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def terrain(self) -> Terrain:
        """The map without its resource walls."""
        return _terrain(self.layout)

    @property
    def sites(self) -> np.ndarray:
        """[M] int32 flat cells of the resource walls."""
        return np.flatnonzero(maps.layout(self.layout)[0]).astype(np.int32)

    @property
    def spawn_cells(self) -> np.ndarray:
        """[S] int32 flat cells on which avatars appear: never inside a resource wall, which is solid while it stands."""
        cells = super().spawn_cells
        return cells[~np.isin(cells, self.sites)]

    @property
    def beams(self) -> tuple[Beam, ...]:
        """Zap, action 7; claim, action 8, which only plain walls stop."""
        return (Beam("zap", 2, 1, self.wait), Beam("claim", 2, 0, 0, stopped_by_avatars=False))

    @property
    def freezes(self) -> bool:
        """Shots freeze."""
        return True

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """See `CHANNELS`."""
        return CHANNELS

    @property
    def code_bits(self) -> int:
        """Standing, dry, damaged, destroyed, and the number of the owner + 1."""
        return 4 + self.players.bit_length()

    @property
    def count_names(self) -> tuple[str, ...]:
        """Events by agent."""
        return ("claims", "cooperations", "defections")

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of this world's metrics."""
        return {
            "claims": "walls that got another owner in this step",
            "cooperations": "of these, walls that nobody held",
            "defections": "of these, walls taken from others",
            "owned": "fraction of the walls that somebody holds",
            "dry": "fraction of the walls that may pay",
            "destroyed": "fraction of the walls that are destroyed",
        }

    @property
    def num_words(self) -> int:
        """Two for each wall (pay, repair) and one for each agent (priority)."""
        return 2 * len(self.sites) + self.players

    # --- dynamics --------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> Walls:
        """Every wall whole and nobody's. `drawn`: [W] uint32, not used."""
        del drawn
        size, agents = len(self.sites), self.players
        return Walls(
            owner=jnp.full(size, rules.NOBODY),
            age=jnp.zeros(size, jnp.int16),
            health=jnp.full(size, rules.WHOLE),
            since=jnp.full(size, rules.LONG),
            mark=jnp.zeros(agents, jnp.int8),
            doomed=jnp.zeros(agents, bool),
        )

    def grow(self, frame: Frame) -> Frame:
        """Phase 2: the doomed leave; walls age, are repaired, and pay."""
        walls, size = frame.resources, len(self.sites)
        avatars = av.remove(frame.avatars, walls.doomed, av.FOREVER)
        owner = rules.release(walls.owner, walls.doomed)
        age, since = rules.tick(walls.age), rules.tick(walls.since)
        lucky = chance(frame.words[size : 2 * size], self.repair_rate)
        health = rules.repair(walls.health, since, lucky, self.repair_delay)
        paying = rules.dry(owner, age, self.dry_steps)
        if self.rewards == "sampled":
            amount = (paying & chance(frame.words[:size], self.pay_rate)).astype(jnp.float32)
        else:
            amount = jnp.where(paying, jnp.float32(self.pay_rate), 0.0)
        mark = walls.mark - (walls.mark > 0)
        walls = Walls(owner, age, health, since, mark, jnp.zeros_like(walls.doomed))
        frame = frame.replace(avatars=avatars, resources=walls)  # pyright: ignore[reportAttributeAccessIssue]
        return frame.paid(rules.income(owner, amount, self.players))

    def _standing(self, walls: Walls) -> Array:
        """[H * W + 1] bool: cells with a resource wall that stands."""
        number = jnp.asarray(number_of(self.sites, self.terrain.size))
        return av.look_up(jnp.append(walls.health > 0, False), number)

    def solid(self, resources: Walls) -> Array:
        """[H * W + 1] bool: plain walls and resource walls that stand."""
        return self._standing(resources) | jnp.asarray(np.append(self.terrain.wall.reshape(-1), True))

    def blocks(self, frame: Frame, beam: Beam, aimed: Aim) -> Array | None:
        """Resource walls stop shots; claims pass."""
        return av.look_up(self._standing(frame.resources), aimed.flat) if beam.name == "zap" else None

    def strike(self, frame: Frame, beam: Beam, shot: Shot) -> Frame:
        """Phase 5: shots damage walls and sanction avatars; then all claims of the step are settled."""
        return self._zapped(frame, shot) if beam.name == "zap" else self._claimed(frame, shot)

    def _zapped(self, frame: Frame, shot: Shot) -> Frame:
        walls = frame.resources
        shots = jnp.sum(struck(shot, jnp.asarray(self.sites)), axis=0, dtype=jnp.int32)
        health, owner, since = rules.damage(walls.health, walls.owner, walls.since, shots)
        marked, doomed = rules.sanction(walls.mark, jnp.sum(shot.hits, axis=0, dtype=jnp.int32))
        # The doomed lose their next action; they are gone before it.
        avatars = av.freeze(av.freeze(frame.avatars, marked, self.freeze_steps), doomed, 1)
        mark = jnp.where(marked, jnp.asarray(self.mark_steps, jnp.int8), walls.mark)
        walls = walls.replace(health=health, owner=owner, since=since, mark=mark, doomed=doomed)
        return frame.replace(avatars=avatars, resources=walls)  # pyright: ignore[reportAttributeAccessIssue]

    def _claimed(self, frame: Frame, shot: Shot) -> Frame:
        walls = frame.resources
        # The first cell of the beam is the one in front, which is claimed without a shot.
        in_front = (shot.flat[:, :1] == self.sites) & frame.avatars.alive[:, None]
        claims = (struck(shot, jnp.asarray(self.sites)) | in_front) & (walls.health > 0)
        before = walls.owner
        owner, age, got = rules.claim(before, walls.age, claims, frame.words[2 * len(self.sites) :])
        frame = frame.holding(walls.replace(owner=owner, age=age))

        def count(which: Array) -> Array:
            return jnp.sum(which, axis=1, dtype=jnp.int8)

        return frame.counted(
            claims=count(got), cooperations=count(got & (before < 0)), defections=count(got & (before >= 0))
        )

    # --- views -----------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[H, W] uint16: bits 0 standing, 1 dry, 2 damaged, 3 destroyed, then the owner + 1."""
        walls = state.resources
        flags = (
            walls.health > 0,
            rules.dry(walls.owner, walls.age, self.dry_steps),
            walls.health == 1,
            walls.health == 0,
        )
        code = (walls.owner + 1).astype(jnp.uint16) << np.uint16(4)
        for place, flag in enumerate(flags):
            code = code | (flag.astype(jnp.uint16) << np.uint16(place))
        return spread(code, self.sites, self.terrain.height, self.terrain.width)

    def decode(self, code: Array) -> Array:
        """[N, cells] bits of `CHANNELS` as each agent sees them."""
        owner = (code >> np.uint32(4)).astype(jnp.int32) - 1
        stands, is_dry = (code & 1) == 1, (code & 2) == 2
        mine = stands & (owner == np.arange(self.players)[:, None])
        others = stands & (owner >= 0) & ~mine
        flags = (
            stands & (owner < 0),
            *(mine & ~is_dry, mine & is_dry, others & ~is_dry, others & is_dry),
            *((code & 4) == 4, (code & 8) == 8),
        )
        bits = jnp.zeros_like(code)
        for place, flag in enumerate(flags):
            bits = bits | (flag.astype(code.dtype) << np.asarray(place, code.dtype))
        return bits

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Metrics that the state alone tells."""
        walls = state.resources
        return {
            "owned": jnp.mean(walls.owner >= 0, dtype=jnp.float32),
            "dry": jnp.mean(rules.dry(walls.owner, walls.age, self.dry_steps), dtype=jnp.float32),
            "destroyed": jnp.mean(walls.health == 0, dtype=jnp.float32),
        }

    def global_state(self, state: WorldState) -> Array:
        """[S] float32: see `GridWorld.global_state`; then of the walls the age and the steps since the last shot, each as far as it
        matters, of the agents the marks, and who is doomed."""
        walls = state.resources
        more = (
            jnp.minimum(walls.age, self.dry_steps),
            jnp.minimum(walls.since, self.repair_delay),
            walls.mark,
            walls.doomed,
        )
        return jnp.concatenate([super().global_state(state), *(x.astype(jnp.float32) for x in more)])

    def picture(self, state: WorldState) -> viewer.Picture:
        """Walls in the colour of their owner, damaged ones with a dot."""
        height, width = self.terrain.wall.shape
        walls, board = state.resources, self.terrain.wall.astype(np.int8)
        owner, health = np.asarray(walls.owner), np.asarray(walls.health)
        board.reshape(-1)[self.sites] = np.where(health == 0, 3, np.where(owner < 0, 2, 4 + owner % len(raster.AGENTS)))
        damaged = np.zeros(height * width, bool)
        damaged[self.sites] = health == 1
        colours = (viewer.FLOOR, viewer.WALL, raster.BROWN, raster.SAND, *raster.AGENTS)
        return viewer.Picture(board, colours, ((damaged.reshape(height, width), raster.BLACK),))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` claims what nobody holds; `defect` too, then what others hold, and shoots whoever is in reach."""
        return {
            "cooperate": from_state(lambda state, key: scripted.cooperate(state, self.layout, key)),
            "defect": from_state(lambda state, key: scripted.defect(state, self.layout, key)),
        }
