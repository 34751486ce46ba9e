"""Cleanup: `cleanup`.

A public good of action: apples grow in the orchard the faster, the cleaner the river is; it gets dirty by itself, and
cleaning pays nothing. Source: spec of the social dilemmas, section 2.2 (Melting Pot 2, `clean_up`; Hughes et al. 2018).
Beams, moves, views and ends are those of `marl_bench.envs.grid`.

| | content |
|---|---|
| action | 0 noop, 1 forward, 2 backward, 3 step left, 4 step right, 5 turn left, 6 turn right, 7 zap, 8 clean; out of range: clipped |
| agents_view | [N, 11, 11, 14] uint8 of 0/1, the agent at (9, 5) looking at row 0; see `channels` |
| reward | `apple_reward` for an apple, `clean_reward` for a cleaned cell |
| ends | truncated after `horizon` steps |
| extras | `alive` [N] bool; [N] int8 events of the step: `shots`, `hits` (taken), `apples`, `cleaned`, `cooperations`, `defections` |
| metrics | see `metric_units` |
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.cleanup import rules, scripted
from marl_bench.envs.grid import avatars as av
from marl_bench.envs.grid import sites
from marl_bench.envs.grid.beams import Aim, Beam, Shot, reached
from marl_bench.envs.grid.geometry import Terrain
from marl_bench.envs.grid.scripted import from_state
from marl_bench.envs.grid.viewer import Picture
from marl_bench.envs.grid.world import Frame, GridWorld, WorldState

Array = jax.Array

_NUM_APPLES, _NUM_DIRT = len(rules.APPLE_SITES), len(rules.DIRT_SITES)


@struct.dataclass
class River:
    """Resources of cleanup.

    Attributes:
      apples: [122] bool, by `rules.APPLE_SITES`.
      dirt: [147] bool, by `rules.DIRT_SITES`.
    """

    apples: Array
    dirt: Array


@struct.dataclass
class Cleanup(GridWorld):
    """Cleanup; action, observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range, or more avatars than spawn cells. TypeError: for a value of the wrong type.
    """

    growth_rate: float = field(
        0.05, doc="probability that an apple grows on a site, with a clean river", unit="probability"
    )
    depletion: float = field(0.4, doc="fraction of dirty sites from which on no apple grows; above `restoration`")
    restoration: float = field(0.0, doc="fraction of dirty sites up to which apples grow at the full rate")
    pollution: float = field(0.5, doc="probability that a clean site gets dirty in a step", unit="probability")
    pollution_delay: int = field(50, doc="steps at the start without pollution", unit="steps")
    regrow_under_agent: bool = field(
        True, static=True, doc="whether an apple grows, and is eaten at once, on a site where an avatar stands"
    )
    apple_reward: Any = field(1.0, doc="for an apple; a number, or [N] numbers", unit="reward")
    clean_reward: Any = field(0.0, doc="for a cleaned cell; a number, or [N] numbers", unit="reward")
    zap_cooldown: int = field(10, doc="steps after a zap without another, 0 ... 127", unit="steps")
    zap_out: int = field(50, doc="steps that a zapped avatar is out of the game, 0 ... 32766", unit="steps")
    clean_cooldown: int = field(2, doc="steps after a cleaning shot without another, 0 ... 127", unit="steps")

    def __post_init__(self) -> None:
        for name in ("growth_rate", "depletion", "restoration", "pollution"):
            check_range(self, name, 0.0, 1.0)
        for name in ("apple_reward", "clean_reward"):
            check_range(self, name)
        check_range(self, "pollution_delay", 0)
        for name in ("zap_cooldown", "clean_cooldown"):
            check_range(self, name, 0, 127)
        check_range(self, "zap_out", 0, av.FOREVER - 1)
        numbers = isinstance(self.depletion, float) and isinstance(self.restoration, float)
        if numbers and self.depletion <= self.restoration:
            raise ValueError(
                f"depletion={self.depletion}: must be above restoration={self.restoration} (fields of Cleanup)"
            )
        super().__post_init__()

    @property
    def terrain(self) -> Terrain:
        """19 x 28 cells, the river in the north, the orchard in the south."""
        return rules.make_map()

    @property
    def beams(self) -> tuple[Beam, ...]:
        """Zap and clean, both three cells long and three wide."""
        return (
            Beam("zap", 3, 1, self.zap_cooldown),
            Beam("clean", 3, 1, self.clean_cooldown, stopped_by_avatars=False),
        )

    @property
    def resource_channels(self) -> tuple[str, ...]:
        """Apple, dirt, river (clean or not)."""
        return ("apple", "dirt", "river")

    @property
    def count_names(self) -> tuple[str, ...]:
        """Apples eaten, cells cleaned; cleaning is cooperation, eating is not."""
        return ("apples", "cleaned", "cooperations", "defections")

    @property
    def measure_units(self) -> dict[str, str]:
        """Meaning and unit of each metric of this world."""
        return {
            "apples": "apples eaten in this step, all agents",
            "cleaned": "cells cleaned in this step, counted for every beam that reaches them",
            "cooperations": "the same as `cleaned`",
            "defections": "the same as `apples`",
            "dirt_fraction": "phi, dirty sites among the 147",
            "ripe": "apples on the map",
        }

    @property
    def num_words(self) -> int:
        """One for each apple site, two for the pollution."""
        return _NUM_APPLES + 2

    # --- phases ----------------------------------------------------------------------------------

    def begin(self, drawn: Array) -> River:
        """79 dirty sites, no apples."""
        del drawn
        return River(jnp.zeros(_NUM_APPLES, bool), jnp.asarray(rules.DIRTY_AT_START))

    def grow(self, frame: Frame) -> Frame:
        """Apples by the dirt at the start of the step, then pollution."""
        river: River = frame.resources
        probability = rules.growth(river.dirt, self.growth_rate, self.depletion, self.restoration)
        grown = sites.chance(frame.words[:_NUM_APPLES], probability)
        if not self.regrow_under_agent:
            here = av.cells(frame.avatars, self.terrain)
            grown = grown & ~jnp.any(sites.standing(rules.APPLE_SITES, here), axis=1)
        likely = jnp.where(frame.count > self.pollution_delay, self.pollution, 0.0)
        dirt = rules.pollute(river.dirt, frame.words[_NUM_APPLES:], likely)
        return frame.holding(River(river.apples | grown, dirt))

    def enter(self, frame: Frame) -> Frame:
        """Eat the apple on the own cell."""
        river: River = frame.resources
        here = av.cells(frame.avatars, self.terrain)
        eaten = sites.standing(rules.APPLE_SITES, here) & river.apples[:, None]
        by = jnp.any(eaten, axis=0)
        left = River(river.apples & ~jnp.any(eaten, axis=1), river.dirt)
        frame = frame.holding(left)
        return frame.paid(jnp.where(by, self.apple_reward, 0.0)).counted(apples=by, defections=by)

    def blocks(self, frame: Frame, beam: Beam, aimed: Aim) -> Array | None:
        """Dirt stops the cleaning beam."""
        return rules.dirty(frame.resources.dirt, aimed.flat) if beam.name == "clean" else None

    def strike(self, frame: Frame, beam: Beam, shot: Shot) -> Frame:
        """A zapped avatar is out; dirt that a cleaning beam reaches is gone."""
        if beam.name == "zap":
            out = av.remove(frame.avatars, jnp.any(shot.hits, axis=0), self.zap_out)
            return frame.replace(avatars=out)  # pyright: ignore[reportAttributeAccessIssue]
        river: River = frame.resources
        cleaned = jnp.sum(shot.lit & rules.dirty(river.dirt, shot.flat), axis=1)
        # A lit cell with dirt is where its beam ends, so all of them get clean.
        dirt = river.dirt & ~reached(shot, rules.DIRT_SITES, rules.WIDTH)
        frame = frame.holding(River(river.apples, dirt))
        return frame.paid(cleaned * jnp.asarray(self.clean_reward, jnp.float32)).counted(
            cleaned=cleaned, cooperations=cleaned
        )

    # --- views -----------------------------------------------------------------------------------

    def resource_code(self, state: WorldState) -> Array:
        """[H, W] uint8: bit 0 apple, bit 1 dirt, bit 2 river."""
        river: River = state.resources
        apples = sites.spread(river.apples, rules.APPLE_SITES, rules.HEIGHT, rules.WIDTH)
        dirt = sites.spread(river.dirt, rules.DIRT_SITES, rules.HEIGHT, rules.WIDTH)
        return apples.astype(jnp.uint8) | (dirt.astype(jnp.uint8) << 1) | (rules.RIVER_MASK.astype(np.uint8) << 2)

    def measure(self, state: WorldState) -> dict[str, Any]:
        """Dirt and apples on the map."""
        river: River = state.resources
        return {"dirt_fraction": jnp.mean(river.dirt.astype(jnp.float32)), "ripe": jnp.sum(river.apples)}

    def picture(self, state: WorldState) -> Picture:
        """Blue river with brown dirt, green orchard with red apples."""
        board = rules.RIVER_MASK.astype(np.int8)
        board.reshape(-1)[rules.APPLE_SITES] = 2
        board.reshape(-1)[rules.DIRT_SITES[np.asarray(state.resources.dirt)]] = 3
        apples = np.zeros(board.shape, bool)
        apples.reshape(-1)[rules.APPLE_SITES[np.asarray(state.resources.apples)]] = True
        colours = (raster.SAND, raster.WATER, raster.GRASS, raster.DIRT)
        return Picture(board, colours, ((apples, raster.RED),))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cooperate` cleans while the river is dirty, above all where the agent is near, and eats otherwise; `defect` only eats."""
        return {
            "cooperate": from_state(functools.partial(scripted.cooperate, self)),
            "defect": from_state(functools.partial(scripted.eat, self)),
        }
