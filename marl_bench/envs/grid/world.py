"""`GridWorld`: the base of the worlds on a grid. A new world writes its map, its resources and their effects.

The base keeps avatars, timers, moves, beams, views, ends, metrics and the picture; a world overrides hooks, each of which
takes and returns a `Frame`. Order of a step (spec: social dilemmas, section 1.5):

| phase | who | hook |
|---|---|---|
| 1 timers run, avatars that are due reappear | base | |
| 2 growth and decay, from the state at the start | world | `grow` |
| 3 turns and moves | base | `solid` |
| 4 what happens on entered cells | world | `enter` |
| 5 beams in the order of `beams`, all from the positions after the moves | base | `blocks`, `strike` |
| 6 what is due at the end of the step | world | `settle` |
| 7 step count, end, metrics, views | base | `measure`, `resource_code`, `decode` |

The larger parts of a step are compiled on their own for those who call `step` without `jax.jit`, where every operation
would be a program otherwise; inside another `jax.jit` they leave no trace (`inline`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import Environment, TimeStep, check_choice, check_integer, check_range, field
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import beams as bm
from marl_bench.envs.grid import view, viewer
from marl_bench.envs.grid.frame import Frame, WorldState
from marl_bench.envs.grid.geometry import Terrain, Window
from marl_bench.envs.grid.sites import chance
from marl_bench.random import words

Array = jax.Array

ENDS = ("truncate", "mp")
SPAWNS = ("map", "anywhere")
MOVE_NAMES = ("noop", "forward", "backward", "step_left", "step_right", "turn_left", "turn_right")
INTERVAL, CAP = 100, 5000
"""With end="mp": steps between two chances to end, and the step at which the episode ends at the latest."""


@struct.dataclass
class GridWorld(Environment):
    """Base of the grid worlds; see the module's docstring for what a world writes.

    Raises:
      ValueError: for a value out of range, or more avatars than spawn cells. TypeError: for a value of the wrong type.
    """

    FEWEST_PLAYERS: ClassVar[int] = 1
    """Agents that the world needs; a world may need more."""
    players: int = field(7, static=True, doc="N, number of agents; >= 1, at most the number of spawn cells")
    horizon: int = field(
        1000, static=True, doc="steps until the episode is truncated; with end='mp' the least number", unit="steps"
    )
    end: str = field(
        "truncate", static=True, doc="'truncate': after `horizon` steps; 'mp': then by chance, every 100th step"
    )
    end_chance: float = field(0.2, doc="with end='mp': probability at each chance to end", unit="probability")
    resolver: str = field("train", static=True, doc=f"who enters a contested cell: {', '.join(av.RESOLVERS)}")
    spawns: str = field(
        "map", static=True, doc="where avatars appear: 'map': its spawn cells; 'anywhere': any floor cell"
    )
    mask_cooldown: bool = field(False, static=True, doc="whether the mask forbids a beam that cannot be fired yet")
    show_ids: bool = field(False, static=True, doc="whether views tell who is who, in N more channels")

    # --- what a world writes ---------------------------------------------------------------------

    @property
    def terrain(self) -> Terrain:
        """The map (make it once, with `functools.lru_cache`)."""
        raise NotImplementedError(f"{type(self).__name__} must define terrain")

    @property
    def beams(self) -> tuple[bm.Beam, ...]:
        """Kinds of beams, in the order of their actions (from 7 on)."""
        return ()

    @property
    def more_actions(self) -> tuple[str, ...]:
        """Names of actions after the beams; the world handles them itself."""
        return ()

    @property
    def window(self) -> Window:
        """What an avatar sees."""
        return Window()

    @property
    def freezes(self) -> bool:
        """Whether avatars can be frozen (then views have a channel for it)."""
        return False

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """Names of the world's channels."""
        return ()

    @property
    def code_bits(self) -> int:
        """Bits of `resource_code`."""
        return len(self.resource_channels)

    @property
    def count_names(self) -> tuple[str, ...]:
        """Names of per-agent event counts, beside `shots` and `hits` of the first beam; all go to the extras."""
        return ()

    @property
    def num_words(self) -> int:
        """Random words that the world uses in a step."""
        return 0

    def begin(self, drawn: Array) -> Any:
        """Resources at the reset. `drawn`: [num_words] uint32 uniform words."""
        del drawn
        return ()

    def grow(self, frame: Frame) -> Frame:
        """Phase 2: growth and decay."""
        return frame

    def solid(self, resources: Any) -> Array | None:
        """[H * W + 1] bool, what cannot be entered now (True for the last entry, outside); None for the walls only."""
        del resources
        return None

    def enter(self, frame: Frame) -> Frame:
        """Phase 4: pick-ups."""
        return frame

    def blocks(self, frame: Frame, beam: bm.Beam, aimed: bm.Aim) -> Array | None:
        """[N, K] bool, cells that block a beam beside walls and avatars; None for none."""
        del frame, beam, aimed
        return None

    def strike(self, frame: Frame, beam: bm.Beam, shot: bm.Shot) -> Frame:
        """Phase 5: what a beam does. All beams of a step see the avatars as they were before any of them."""
        del beam, shot
        return frame

    def settle(self, frame: Frame) -> Frame:
        """Phase 6: what is due at the end of the step."""
        return frame

    def resource_code(self, state: WorldState) -> Array | np.ndarray:
        """[H, W] unsigned integers of `code_bits` bits, what lies on each cell; bit c is channel c unless `decode` is written."""
        del state
        return np.zeros((self.terrain.height, self.terrain.width), np.uint8)

    def decode(self, code: Array) -> Array:
        """[N, cells] bits of `resource_channels` from codes seen by each agent (where what one sees depends on who looks)."""
        return code

    def measure(self, state: WorldState) -> dict[str, Any]:
        """The world's own metrics: scalars by name; documented in `measure_units`."""
        del state
        return {}

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of what `measure` and `count_names` report."""
        return {}

    def picture(self, state: WorldState) -> viewer.Picture:
        """What the picture shows below avatars and beams."""
        del state
        return viewer.Picture(self.terrain.wall.astype(np.int8), (viewer.FLOOR, viewer.WALL), ())

    # --- sizes -----------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        check_integer(self, "players", 1, 126)
        if self.players < self.FEWEST_PLAYERS:
            raise ValueError(
                f"players={self.players}: must be at least {self.FEWEST_PLAYERS} (field of {type(self).__name__})"
            )
        check_integer(self, "horizon", 1)
        check_choice(self, "end", ENDS)
        check_choice(self, "resolver", av.RESOLVERS)
        check_choice(self, "spawns", SPAWNS)
        check_range(self, "end_chance", 0.0, 1.0)
        room = len(self.spawn_cells)
        if self.players > room:
            raise ValueError(
                f"players={self.players}: there are {room} spawn cells; take at most {room} agents"
                f"{'' if self.spawns == 'anywhere' else ', or spawns=' + repr('anywhere')} "
                f"(field of {type(self).__name__})"
            )

    @property
    def spawn_cells(self) -> np.ndarray:
        """[S] int32 flat cells on which avatars appear."""
        terrain = self.terrain
        return terrain.spawns if self.spawns == "map" else np.flatnonzero(~terrain.wall).astype(np.int32)

    @property
    def num_agents(self) -> int:
        """N."""
        return self.players

    @property
    def action_names(self) -> tuple[str, ...]:
        """Name of every action."""
        return (*MOVE_NAMES, *(f"fire_{beam.name}" for beam in self.beams), *self.more_actions)

    @property
    def num_actions(self) -> int:
        """7, one for each kind of beam, and the world's own."""
        return len(self.action_names)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of a view."""
        beams = [beam.name for beam in self.beams]
        return (
            "wall",
            *self.resource_channels,
            *("self", "others", "heading_same", "heading_right", "heading_opposite", "heading_left"),
            *beams,
            *(("frozen",) if self.freezes else ()),
            *(f"ready_{name}" for name in beams),
            *((f"agent_{i}" for i in range(self.players)) if self.show_ids else ()),
        )

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(rows, columns, channels) of a view."""
        return (*self.window.shape, len(self.channels))

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """Views are uint8 zeros and ones."""
        view_spec = specs.BoundedArray((self.players, *self.observation_shape), np.uint8, "agents_view", 0, 1)
        return dataclasses.replace(super().observation_spec, agents_view=view_spec)

    @property
    def fixed_horizon(self) -> int | None:
        """`horizon`, unless the end is left to chance."""
        return self.horizon if self.end == "truncate" else None

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "mean_reward": "reward per agent and step",
            "alive": "fraction of agents on the map",
            "shots": "shots of the first beam in this step, all agents",
            "hits": "avatars hit by the first beam in this step",
            **self.measure_units,
        }

    # --- dynamics --------------------------------------------------------------------------------

    def reset(self, key: Array) -> tuple[WorldState, TimeStep]:
        """Put avatars on different spawn cells, headings uniform. `key`: [] typed PRNG key of the whole episode."""
        n, terrain = self.players, self.terrain
        start = jnp.int32(0)
        drawn = words(key, start, 0, n + self.num_words)
        small = jnp.zeros(n, jnp.int8)
        first = terrain.starts[:n] if self.spawns == "map" else terrain.starts[:0]
        flat = jnp.asarray(np.append(first, np.zeros(n - len(first), np.int32)))
        avatars = av.Avatars(
            row=(flat // terrain.width).astype(jnp.int8),
            col=(flat % terrain.width).astype(jnp.int8),
            heading=(drawn[:n] & np.uint32(3)).astype(jnp.int8),
            away=jnp.zeros(n, jnp.int16),
            frozen=small,
            waits=jnp.zeros((n, len(self.beams)), jnp.int8),
        )
        due = jnp.arange(n) >= len(first)
        avatars = av.put(avatars, due, terrain, self.spawn_cells, drawn[:n])
        lit = jnp.zeros((len(self.beams), terrain.height, -(-terrain.width // 32)), jnp.uint32)
        state = WorldState(avatars, self.begin(drawn[n:]), lit, key, start)
        observation = self.observe_view(self.views(state), start, self._mask(avatars))
        nothing = {name: jnp.zeros(n, jnp.int8) for name in ("shots", "hits", *self.count_names)}
        return state, self._with_counts(self.restart(observation), state, nothing)

    def step(self, state: WorldState, actions: Array) -> tuple[WorldState, TimeStep]:
        """All avatars act at once; phases as in the module's docstring. `actions`: [N] integers, clipped."""
        n = self.players
        count = state.step_count + 1
        drawn = words(state.key, count, 0, 2 * n + 1 + self.num_words)
        priorities, places, last, own = drawn[:n], drawn[n : 2 * n], drawn[2 * n], drawn[2 * n + 1 :]
        actions = jnp.clip(jnp.asarray(actions, jnp.int32), 0, self.num_actions - 1)
        actions = jnp.where(state.avatars.active, actions, av.NOOP)
        loaded = state.avatars.waits == 0
        avatars, due = av.tick(state.avatars)
        avatars = av.put(avatars, due, self.terrain, self.spawn_cells, places)
        nothing = {name: jnp.zeros(n, jnp.int8) for name in ("shots", "hits", *self.count_names)}
        frame = Frame(avatars, state.resources, actions, jnp.zeros(n, jnp.float32), nothing, own, count)
        frame = self.grow(frame)
        moved = av.move(frame.avatars, actions, self.solid(frame.resources), priorities, self.terrain, self.resolver)
        frame = self.enter(frame.replace(avatars=moved))  # pyright: ignore[reportAttributeAccessIssue]
        frame, lit = self._fire(frame, loaded)
        frame = self.settle(frame)
        following = WorldState(frame.avatars, frame.resources, lit, state.key, count)
        observation = self.observe_view(self.views(following), count, self._mask(frame.avatars))
        timestep = self.transition(frame.reward, observation, truncated=self._over(count, last))
        return following, self._with_counts(timestep, following, frame.counts)

    @functools.partial(jax.jit, inline=True)
    def _fire(self, frame: Frame, loaded: Array) -> tuple[Frame, Array]:
        """Phase 5, and the bit boards of the lit cells."""
        ground, lit = frame.avatars, []
        for index, beam in enumerate(self.beams):
            fired = loaded[:, index] & (frame.actions == len(MOVE_NAMES) + index)
            aimed = bm.aim(ground, beam, self.terrain)
            shot = bm.shoot(fired, aimed, self.blocks(frame, beam, aimed), ground, beam, self.terrain)
            lit.append(shot.board)
            now = frame.avatars
            waits = now.waits.at[:, index].set(jnp.where(fired, beam.wait, now.waits[:, index]).astype(jnp.int8))
            frame = frame.replace(avatars=now.replace(waits=waits))  # pyright: ignore[reportAttributeAccessIssue]
            if index == 0:
                frame = frame.counted(shots=fired, hits=jnp.any(shot.hits, axis=0))
            frame = self.strike(frame, beam, shot)
        if not lit:
            return frame, jnp.zeros((0, self.terrain.height, -(-self.terrain.width // 32)), jnp.uint32)
        return frame, jnp.stack(lit)

    def _over(self, count: Array, word: Array) -> Array:
        if self.end == "truncate":
            return count >= self.horizon
        by_chance = (count >= self.horizon) & (count % INTERVAL == 0) & chance(word, self.end_chance)
        return by_chance | (count >= max(CAP, self.horizon))

    def _mask(self, avatars: av.Avatars) -> Array:
        """[N, A] bool: everything for avatars that may act, else NOOP alone."""
        free = jnp.broadcast_to(avatars.active[:, None], (self.players, self.num_actions))
        if self.mask_cooldown and self.beams:
            before, after = len(MOVE_NAMES), len(self.more_actions)
            free = free & jnp.pad(avatars.waits == 0, ((0, 0), (before, after)), constant_values=True)
        return free | (np.arange(self.num_actions) == av.NOOP)

    def _with_counts(self, timestep: TimeStep, state: WorldState, counts: dict[str, Array]) -> TimeStep:
        alive = state.avatars.alive
        metrics = {
            "mean_reward": jnp.mean(timestep.reward),
            "alive": jnp.mean(alive.astype(jnp.float32)),
            **{name: jnp.sum(value, dtype=jnp.float32) for name, value in counts.items()},
            **{name: jnp.asarray(value, jnp.float32) for name, value in self.measure(state).items()},
        }
        metrics = {name: metrics[name] for name in self.metric_units}
        extras = {"metrics": metrics, "alive": alive, **counts}
        return timestep.replace(extras=extras)  # pyright: ignore[reportAttributeAccessIssue]

    # --- views -----------------------------------------------------------------------------------

    def views(self, state: WorldState) -> Array:
        """[N, rows, columns, channels] uint8 view of each agent; zeros for those away."""
        return view.views(self, state)

    def global_state(self, state: WorldState) -> Array:
        """[S] float32: the bits of every cell's code (see `view.code_map`), row by row; then, one quantity of all agents after the
        other, the steps away (-1: for good), frozen and until each beam, row and column (-1 for those away) and heading; then the
        steps played, in units of the horizon.

        The cells do not tell who is who (unless `show_ids`), which timers and what the worlds add are in the order of.
        """
        code, bits = view.code_map(self, state)
        planes = (code[..., None].astype(jnp.uint32) >> np.arange(bits, dtype=np.uint32)) & 1
        avatars = state.avatars
        timers = (jnp.where(avatars.away >= av.FOREVER, -1, avatars.away), avatars.frozen, avatars.waits)
        places = (*(jnp.where(avatars.alive, place, -1) for place in (avatars.row, avatars.col)), avatars.heading)
        played = state.step_count / np.float32(self.horizon)
        return jnp.concatenate([x.reshape(-1).astype(jnp.float32) for x in (planes, *timers, *places, played)])

    def render(self, state: WorldState) -> np.ndarray:
        """uint8 [16 (H + 2), 16 (W + 2), 3]: the map in its wall, avatars as arrowheads, lit cells."""
        return viewer.render(state, self.picture(state), [beam.name for beam in self.beams])
