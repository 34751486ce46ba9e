"""Games in the matrix: `in_the_matrix`.

Agents walk about and gather resources of K types. What one carries is a mixed strategy of a K x K matrix game, which
two agents play when one hits the other with the interaction beam and both have gathered something. Rules: `rules`,
games: `payoffs`, maps: `layouts`; moves, beams and views: `marl_bench.envs.grid`. Source: Melting Pot 2,
`*_in_the_matrix__arena` and `__repeated` (the first such game: Vezhnevets et al. 2020, "OPtions as REsponses").

| | content |
|---|---|
| action | 0 noop, 1-4 forward, backward, step left, step right, 5-6 turn left, turn right, 7 interact |
| agents_view | [N, 11, 11, C] uint8 ([N, 5, 5, C] on `repeated`); the last 3 K of the resource channels hold numbers |
| reward | x' A y for the row player and x' B y for the column player, at the end of the freeze |
| ends | truncated after `horizon` steps, or by chance as in Melting Pot |
| metrics | `interactions`, `collected`, `destroyed`, `resources`, in dilemmas `cooperations` and `defections` |
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import ScriptedPolicy, check_choice, check_range, field
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import sites
from marl_bench.envs.grid.beams import Aim, Beam, Shot, struck
from marl_bench.envs.grid.boards import paint, plane
from marl_bench.envs.grid.geometry import Terrain, Window
from marl_bench.envs.grid.world import Frame, GridWorld, WorldState
from marl_bench.envs.in_the_matrix import layouts, rules, scripted, viewer
from marl_bench.envs.in_the_matrix.payoffs import GAMES, Payoffs
from marl_bench.random import unit_interval

Array = jax.Array

DILEMMAS = ("prisoners_dilemma", "chicken", "stag_hunt")
"""Games whose strategy 0 is cooperation."""

_BY_LAYOUT = {"arena": (0.04, 50), "sparse": (0.04, 50), "repeated": (0.02, 5)}
"""Rate of regrowth and steps of absence of Melting Pot's configurations."""


@struct.dataclass
class Resources:
    """What the world adds to the state: S sites, N agents, K types.

    Attributes:
      health: [S] int8, shots until the resource is destroyed; 0 where there is none.
      delay: [S] int8, steps until an empty site may grow.
      kind: [S] int8, type of each site in this episode.
      inventory: [N, K] int16, resources that each agent carries; at least 1 of each.
      ready: [N] bool, has gathered something since its inventory was last reset.
      engaged: [N] bool, in an interaction that is not yet paid.
      due: [N] float32, what it will pay.
      result: [N, 2 K] int16, own and other's inventory of the interaction that began in the last step; zeros if none.
    """

    health: Array
    delay: Array
    kind: Array
    inventory: Array
    ready: Array
    engaged: Array
    due: Array
    result: Array


@struct.dataclass
class InTheMatrix(GridWorld):
    """A game in the matrix; actions, views, rewards and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range, or a layout that has no map for the game.
      TypeError: for a value of the wrong type.
    """

    players: int = field(8, static=True, doc="N, number of agents; 2 to 64", unit="agents")
    game: str = field("prisoners_dilemma", static=True, doc=f"the matrix game: {', '.join(GAMES)}")
    layout: str = field("arena", static=True, doc=f"map and window: {', '.join(layouts.LAYOUTS)}")
    refill: bool | None = field(
        None, static=True, doc="whether all resources return while no agent is on the map; None: only if repeated"
    )
    row_payoffs: Any = field(None, doc="A, [K, K] payoffs of the row player; None: those of the game", unit="reward")
    column_payoffs: Any = field(
        None, doc="B, [K, K] payoffs of the column player; None: those of the game (A transposed if A is given)"
    )
    regrowth: float | None = field(
        None, doc="probability of regrowth in a step after the delay; None: 0.04, or 0.02 if repeated"
    )
    delay: int = field(10, doc="steps before a resource can grow again; 0 to 127", unit="steps")
    end_chance: float = field(0.15, doc="with end='mp': probability at each chance to end", unit="probability")
    health: int = field(3, doc="shots that destroy a resource; 1 to 127", unit="shots")
    wait: int = field(2, doc="steps after a shot without another; 0 to 127", unit="steps")
    freeze: int = field(
        16, doc="steps from an interaction to its reward, 0 to 127; both agents stand still", unit="steps"
    )
    absence: int | None = field(
        None, doc="steps off the map after an interaction, at least 1; None: 50, or 5 if repeated", unit="steps"
    )

    def __post_init__(self) -> None:
        check_choice(self, "game", tuple(GAMES))
        check_choice(self, "layout", layouts.LAYOUTS)
        layouts.layout(self.layout, self.types)
        super().__post_init__()
        if not 2 <= self.players <= 64:
            raise ValueError(f"players={self.players}: must be between 2 and 64 (field of {type(self).__name__})")
        check_range(self, "regrowth", 0.0, 1.0)
        for name, low in (("delay", 0), ("health", 1), ("wait", 0), ("freeze", 0)):
            check_range(self, name, low, 127)
        check_range(self, "absence", 1, 10_000)
        for name in ("row_payoffs", "column_payoffs"):
            _check_matrix(getattr(self, name), name, self.types)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def payoff(self) -> Payoffs:
        """The game as listed, before `row_payoffs` and `column_payoffs`."""
        return GAMES[self.game]

    @property
    def types(self) -> int:
        """K, number of resource types and pure strategies."""
        return len(self.payoff.row)

    @property
    def map(self) -> layouts.Map:
        """The map with its sites."""
        return layouts.load_map(self.layout, self.types)

    @property
    def terrain(self) -> Terrain:
        """The map without its sites."""
        return self.map.terrain

    @property
    def window(self) -> Window:
        """9 rows ahead, 1 behind, 5 columns on each side; on `repeated` 3, 1 and 2."""
        return Window(3, 1, 2, 2) if self.layout == "repeated" else Window()

    @property
    def beams(self) -> tuple[Beam, ...]:
        """The interaction beam, action 7."""
        return (Beam("interact", length=3, radius=1, wait=self.wait),)

    @property
    def freezes(self) -> bool:
        """Agents in an interaction stand still."""
        return True

    @property
    def _flags(self) -> tuple[str, ...]:
        return ("ready", "row_player") if self.payoff.roles else ("ready",)

    @property
    def _numbers(self) -> tuple[str, ...]:
        kinds = range(self.types)
        return tuple(f"{what}_{k}" for what in ("inventory", "result_own", "result_other") for k in kinds)

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """One for each type, flags of the agent in the cell, and numbers, which stand at the own cell only."""
        return (*(f"resource_{k}" for k in range(self.types)), *self._flags, *self._numbers)

    @property
    def code_bits(self) -> int:
        """Types and flags; the numbers are not on the map."""
        return self.types + len(self._flags)

    @property
    def count_names(self) -> tuple[str, ...]:
        """Events by agent."""
        dilemma = ("cooperations", "defections") if self.game in DILEMMAS else ()
        return ("interactions", "collected", "destroyed", *dilemma)

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of this world's metrics."""
        units = {
            "interactions": "agents that began an interaction in this step",
            "collected": "resources gathered in this step",
            "destroyed": "resources destroyed in this step",
            "resources": "fraction of the sites that carry a resource",
            "cooperations": "agents that began an interaction with more of type 0 than of the other",
            "defections": "agents that began an interaction with less of type 0 than of the other",
        }
        return {name: unit for name, unit in units.items() if name in (*self.count_names, "resources")}

    @property
    def num_words(self) -> int:
        """One for each site and one for each agent."""
        return len(self.map.cells) + self.players

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """Views are uint8: zeros and ones, but for the numbers at the own cell."""
        spec = super().observation_spec
        view_spec = specs.BoundedArray(spec.agents_view.shape, np.uint8, "agents_view", 0, 255)
        return dataclasses.replace(spec, agents_view=view_spec)

    # --- parameters ------------------------------------------------------------------------------

    @property
    def matrices(self) -> tuple[Array, Array]:
        """[K, K] float32 payoffs A and B in use."""
        row, column = self.row_payoffs, self.column_payoffs
        if row is None:
            row, transposed = self.payoff.row, self.payoff.column
        else:
            row = jnp.asarray(row, jnp.float32)
            transposed = jnp.swapaxes(row, -1, -2)
        return jnp.asarray(row, jnp.float32), jnp.asarray(transposed if column is None else column, jnp.float32)

    @property
    def _refills(self) -> bool:
        return self.layout == "repeated" if self.refill is None else self.refill

    # --- dynamics --------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> Resources:
        """All resources are there; where the map leaves the type open it is uniform. `drawn`: [S + N] uint32."""
        count, n, k = len(self.map.cells), self.players, self.types
        open_kind = ((drawn[:count] >> np.uint32(16)) * np.uint32(k)) >> np.uint32(16)
        kind = jnp.where(self.map.kind < 0, open_kind.astype(jnp.int8), self.map.kind)
        no = jnp.zeros(n, bool)
        return Resources(
            health=jnp.full(count, self.health, jnp.int8),
            delay=jnp.zeros(count, jnp.int8),
            kind=kind,
            inventory=jnp.ones((n, k), jnp.int16),
            ready=no,
            engaged=no,
            due=jnp.zeros(n, jnp.float32),
            result=jnp.zeros((n, 2 * k), jnp.int16),
        )

    def grow(self, frame: Frame) -> Frame:
        """Phase 2: empty sites grow where nobody stands."""
        old = frame.resources
        occupied = jnp.any(sites.standing(self.map.cells, av.cells(frame.avatars, self.terrain)), axis=1)
        drawn = unit_interval(frame.words[: len(self.map.cells)])
        rate = _BY_LAYOUT[self.layout][0] if self.regrowth is None else self.regrowth
        health, delay = rules.regrow(old.health, old.delay, occupied, drawn, rate, self.health)
        return _with(frame, health=health, delay=delay, result=jnp.zeros_like(old.result))

    def enter(self, frame: Frame) -> Frame:
        """Phase 4: agents gather what they stand on."""
        old = frame.resources
        on_site = sites.standing(self.map.cells, av.cells(frame.avatars, self.terrain)).T
        gained, taken = rules.gather(on_site, old.health, old.kind, self.types)
        health, delay = rules.remove(old.health, old.delay, jnp.where(taken, old.health, 0), self.delay)
        got = jnp.sum(gained, axis=1)
        frame = _with(frame, health=health, delay=delay, inventory=old.inventory + gained, ready=old.ready | (got > 0))
        return frame.counted(collected=got)

    def blocks(self, frame: Frame, beam: Beam, aimed: Aim) -> Array:
        """[N, 9] bool: resources that a shot does not destroy stop the beam."""
        del beam
        solid = jnp.append(frame.resources.health > 1, False)
        return av.look_up(solid, av.look_up(self.map.site_of, aimed.flat))

    def strike(self, frame: Frame, beam: Beam, shot: Shot) -> Frame:
        """Phase 5: shots damage resources and begin interactions."""
        del beam
        old = frame.resources
        hit = struck(shot, self.map.cells) & (old.health > 0)
        health, delay = rules.remove(old.health, old.delay, jnp.sum(hit, axis=0, dtype=jnp.int8), self.delay)
        broken = hit & (health == 0)
        frame = _with(frame, health=health, delay=delay).counted(destroyed=jnp.sum(broken, axis=1))
        aims = rules.first_hit(shot.flat, shot.lit, av.cells(frame.avatars, self.terrain))
        able = old.ready & ~old.engaged
        aims = aims & able[:, None] & able[None, :]
        if self.payoff.roles:
            even = np.arange(self.players) % 2
            aims = aims & (even[:, None] != even[None, :])
        priority = rules.distinct(frame.words[len(self.map.cells) :])
        return self._interact(frame, rules.meetings(aims, priority))

    def _interact(self, frame: Frame, meets: Array) -> Frame:
        old = frame.resources
        met = jnp.any(meets | meets.T, axis=1)
        row_player = rules.as_row_players(meets, self.payoff.roles)
        due = rules.payoffs(rules.mixed(old.inventory), row_player, *self.matrices)
        other = rules.partner_inventory(old.inventory, meets)
        own = jnp.where(met[:, None], old.inventory, 0)
        frozen = jnp.where(met, jnp.asarray(self.freeze, jnp.int8), frame.avatars.frozen)
        frame = _with(
            frame,
            engaged=old.engaged | met,
            due=jnp.where(met, due, old.due),
            result=jnp.concatenate([own, other], axis=1),
        )
        frame = frame.replace(avatars=frame.avatars.replace(frozen=frozen))  # pyright: ignore[reportAttributeAccessIssue]
        frame = frame.counted(interactions=met)
        if self.game not in DILEMMAS:
            return frame
        first, second = old.inventory[:, 0], old.inventory[:, 1]
        return frame.counted(cooperations=met & (first > second), defections=met & (first < second))

    def settle(self, frame: Frame) -> Frame:
        """Phase 6: pay the interactions whose freeze is over; both agents leave the map."""
        old = frame.resources
        over = old.engaged & (frame.avatars.frozen == 0)
        absence = _BY_LAYOUT[self.layout][1] if self.absence is None else self.absence
        avatars = av.remove(frame.avatars, over, absence)
        frame = frame.paid(jnp.where(over, old.due, 0.0))
        frame = _with(
            frame,
            inventory=jnp.where(over[:, None], jnp.int16(1), old.inventory),
            ready=old.ready & ~over,
            engaged=old.engaged & ~over,
            due=jnp.where(over, 0.0, old.due),
        )
        frame = frame.replace(avatars=avatars)  # pyright: ignore[reportAttributeAccessIssue]
        if not self._refills:
            return frame
        nobody = ~jnp.any(avatars.alive)
        full = jnp.asarray(self.health, jnp.int8)
        health = jnp.where(nobody & (frame.resources.health == 0), full, frame.resources.health)
        return _with(frame, health=health, delay=jnp.where(nobody, jnp.int8(0), frame.resources.delay))

    # --- views -----------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[H, W] uint8: a bit for the type of a resource, then whether the agent there is ready, and its role."""
        old, terrain = state.resources, self.terrain
        here = jnp.where(old.health > 0, jnp.left_shift(jnp.uint8(1), old.kind.astype(jnp.uint8)), jnp.uint8(0))
        code = sites.spread(here, self.map.cells, terrain.height, terrain.width)
        flags = old.ready.astype(jnp.uint32)
        if self.payoff.roles:
            flags = flags | np.where(np.arange(self.players) % 2 == 0, np.uint32(2), np.uint32(0))
        flags = jnp.where(state.avatars.alive, flags, np.uint32(0))
        painted = paint(state.avatars.row, state.avatars.col, flags, terrain.wall.shape, len(self._flags))
        for place in range(len(self._flags)):
            bit = plane(painted[place], terrain.width).astype(jnp.uint8)
            code = code | (bit << np.uint8(self.types + place))
        return code

    def views(self, state: WorldState) -> Array:
        """[N, rows, columns, channels] uint8 view of each agent; zeros for those away."""
        old, window = state.resources, self.window
        numbers = jnp.concatenate([old.inventory, old.result], axis=1)
        numbers = jnp.where(state.avatars.alive[:, None], jnp.clip(numbers, 0, 255), 0).astype(jnp.uint8)
        first = self.channels.index(self._numbers[0])
        own = (slice(None), window.ahead, window.left, slice(first, first + len(self._numbers)))
        return super().views(state).at[own].set(numbers)

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Metrics that the state alone tells."""
        return {"resources": jnp.mean((state.resources.health > 0).astype(jnp.float32))}

    def global_state(self, state: WorldState) -> Array:
        """[S] float32: see `GridWorld.global_state`; then all of `Resources`, in the order of its fields."""
        more = jax.tree.leaves(state.resources)
        return jnp.concatenate([super().global_state(state), *(x.reshape(-1).astype(jnp.float32) for x in more)])

    def picture(self, state: WorldState) -> Any:
        """Resources as discs in the colours of their types."""
        return viewer.picture(state.resources, self.map, self.types)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` gathers type 0 and seeks an interaction; `defect` does so with type 1, `third` with type 2."""
        names = ("cooperate", "defect", "third")[: self.types]
        return {name: scripted.gatherer(self, kind) for kind, name in enumerate(names)}


def _with(frame: Frame, **changes: Any) -> Frame:
    return frame.replace(resources=frame.resources.replace(**changes))  # pyright: ignore[reportAttributeAccessIssue]


def _check_matrix(value: Any, name: str, types: int) -> None:
    """Check a matrix that a user wrote: K rows of K numbers. Arrays, and what `jax.tree` operations put there, pass."""
    if not isinstance(value, (list, tuple)):
        return
    rows = [len(row) if isinstance(row, (list, tuple)) else 0 for row in value]
    if rows != [types] * types:
        raise ValueError(f"{name}={value!r}: must be {types} rows of {types} numbers (field of InTheMatrix)")
