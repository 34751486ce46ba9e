"""Commons harvest: `commons_harvest`.

A commons: apples grow back the faster, the more apples are left around, and a patch without apples is lost for ever.
Source: spec of the social dilemmas, section 2.3 (Melting Pot 2, `commons_harvest__open`, `__closed`, `__partnership`;
Perolat et al. 2017). Beams, moves, views and ends are those of `marl_bench.envs.grid`.

| | content |
|---|---|
| action | 0 noop, 1 forward, 2 backward, 3 step left, 4 step right, 5 turn left, 6 turn right, 7 zap; out of range: clipped |
| agents_view | [N, 11, 11, 10] uint8 of 0/1, the agent at (9, 5) looking at row 0; see `channels` |
| reward | `apple_reward` for an apple |
| ends | truncated after `horizon` steps |
| extras | `alive` [N] bool; [N] int8 events of the step: `shots`, `hits` (taken), `apples`, `cooperations`, `defections` |
| metrics | see `metric_units` |
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_choice, check_integer, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.commons_harvest import rules, scripted
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import sites
from marl_bench.envs.grid.beams import Beam, Shot
from marl_bench.envs.grid.geometry import Terrain
from marl_bench.envs.grid.scripted import from_state
from marl_bench.envs.grid.viewer import Picture
from marl_bench.envs.grid.world import Frame, GridWorld, WorldState

Array = jax.Array

_NUM_SITES = len(rules.SITES)
_ZAP = {"open": (3, 2, 4), "closed": (4, 1, 100), "partnership": (4, 1, 100)}
"""Length, cooldown and steps out by layout."""
_ONE = {"open": 0.0025, "closed": 0.001, "partnership": 0.001}


@struct.dataclass
class CommonsHarvest(GridWorld):
    """Commons harvest; action, observation, reward and metrics stand in the module's docstring.

    The state's `resources` are [64] bool, the apples by `rules.SITES`.

    Raises:
      ValueError: for a value out of range, or more avatars than spawn cells. TypeError: for a value of the wrong type.
    """

    end_chance: float = field(0.15, doc="with end='mp': probability at each chance to end", unit="probability")
    layout: str = field("open", static=True, doc=f"map: {', '.join(rules.LAYOUTS)}")
    regrowth_one: float | None = field(
        None, doc="chance to regrow with one neighbour; None: 0.0025 (open) or 0.001", unit="probability"
    )
    regrowth_two: float = field(0.005, doc="chance to regrow with two neighbours", unit="probability")
    regrowth_three: float = field(0.025, doc="chance to regrow with three neighbours or more", unit="probability")
    apple_reward: Any = field(1.0, doc="for an apple; a number, or [N] numbers", unit="reward")
    zap_length: int | None = field(
        None, static=True, doc="cells ahead that a zap reaches, 1 ... 9; None: 3 (open) or 4", unit="cells"
    )
    zap_cooldown: int | None = field(
        None, doc="steps after a zap without another, 0 ... 127; None: 2 (open) or 1", unit="steps"
    )
    zap_out: int | None = field(
        None, doc="steps that a zapped avatar is out of the game, 0 ... 32766; None: 4 (open) or 100", unit="steps"
    )

    def __post_init__(self) -> None:
        check_choice(self, "layout", rules.LAYOUTS)
        for name in ("regrowth_one", "regrowth_two", "regrowth_three"):
            check_range(self, name, 0.0, 1.0)
        check_range(self, "apple_reward")
        if self.zap_length is not None:
            check_integer(self, "zap_length", 1, 9)
        check_range(self, "zap_cooldown", 0, 127)
        check_range(self, "zap_out", 0, av.FOREVER - 1)
        super().__post_init__()

    @property
    def terrain(self) -> Terrain:
        """16 x 22 cells, apples in the north, spawn cells in the south."""
        return rules.make_map(self.layout)

    @property
    def beams(self) -> tuple[Beam, ...]:
        """Zap, three cells wide."""
        length, cooldown, _ = _ZAP[self.layout]
        return (
            Beam(
                "zap",
                length if self.zap_length is None else self.zap_length,
                1,
                cooldown if self.zap_cooldown is None else self.zap_cooldown,
            ),
        )

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """Apple."""
        return ("apple",)

    @property
    def count_names(self) -> tuple[str, ...]:
        """Apples eaten, and among them those with two neighbours left (cooperation) or fewer (defection)."""
        return ("apples", "cooperations", "defections")

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of each metric of this world."""
        return {
            "apples": "apples eaten in this step, all agents",
            "cooperations": "apples eaten that had at least two apples within two steps",
            "defections": "the other apples eaten",
            "ripe": "apples on the map",
        }

    @property
    def num_words(self) -> int:
        """One for each apple site."""
        return _NUM_SITES

    # --- phases ----------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> Array:
        """All 64 apples."""
        del drawn
        return jnp.ones(_NUM_SITES, bool)

    def grow(self, frame: Frame) -> Frame:
        """Empty sites regrow by the number of apples around them at the start of the step."""
        apples = frame.resources
        one = _ONE[self.layout] if self.regrowth_one is None else self.regrowth_one
        count = rules.count_neighbours(apples)
        grown = sites.chance(frame.words, rules.regrowth(count, one, self.regrowth_two, self.regrowth_three))
        return frame.holding(apples | grown)

    def enter(self, frame: Frame) -> Frame:
        """Eat the apple on the own cell."""
        apples = frame.resources
        here = av.cells(frame.avatars, self.terrain)
        eaten = sites.standing(rules.SITES, here) & apples[:, None]
        by = jnp.any(eaten, axis=0)
        fair = jnp.any(eaten & (rules.count_neighbours(apples) >= scripted.ENOUGH)[:, None], axis=0)
        left = apples & ~jnp.any(eaten, axis=1)
        frame = frame.holding(left)
        return frame.paid(jnp.where(by, self.apple_reward, 0.0)).counted(
            apples=by, cooperations=fair, defections=by & ~fair
        )

    def strike(self, frame: Frame, beam: Beam, shot: Shot) -> Frame:
        """A zapped avatar is out."""
        del beam
        steps = _ZAP[self.layout][2] if self.zap_out is None else self.zap_out
        out = av.remove(frame.avatars, jnp.any(shot.hits, axis=0), steps)
        return frame.replace(avatars=out)  # pyright: ignore[reportAttributeAccessIssue]

    # --- views -----------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[H, W] bool: apples."""
        return sites.spread(state.resources, rules.SITES, rules.HEIGHT, rules.WIDTH)

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Apples on the map."""
        return {"ripe": jnp.sum(state.resources)}

    def picture(self, state: WorldState) -> Picture:
        """Green patches with red apples, grey walls."""
        board = self.terrain.wall.astype(np.int8)
        board.reshape(-1)[rules.SITES] = 2
        apples = np.zeros(board.shape, bool)
        apples.reshape(-1)[rules.SITES[np.asarray(state.resources)]] = True
        return Picture(board, (raster.SAND, raster.WALL, raster.GRASS), ((apples, raster.RED),))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` eats apples that have two apples around them; `defect` eats the nearest one."""
        return {
            "cooperate": from_state(functools.partial(scripted.careful, self)),
            "defect": from_state(functools.partial(scripted.greedy, self)),
        }
