"""Beams: which cells they light, and whom they hit. Spec: social dilemmas, section 1.4.

All beams of a step start from the positions after the moves, at the same time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid.avatars import Avatars, cells, look_up, padded
from marl_bench.envs.grid.boards import paint
from marl_bench.envs.grid.geometry import Terrain, footprint

Array = jax.Array


class Beam(NamedTuple):
    """A kind of beam.

    Attributes:
      name: "zap", "clean", ...
      length: cells ahead.
      radius: columns on each side.
      wait: steps after a shot in which it cannot be fired again (a number or a leaf of the environment).
      stopped_by_avatars: whether live avatars block it.
    """

    name: str
    length: int
    radius: int
    wait: Any
    stopped_by_avatars: bool = True


class Aim(NamedTuple):
    """Cells that a beam would light if nothing blocked it, for each shooter.

    Attributes:
      flat: [N, K] int32 flat cells; H * W outside.
      wall: [N, K] bool, wall or outside.
    """

    flat: Array
    wall: Array


class Shot(NamedTuple):
    """What one kind of beam does in a step.

    Attributes:
      fired: [N] bool, who fires.
      flat: [N, K] int32 flat cells of the beam.
      lit: [N, K] bool, cells that it reaches, with the blocking ones at its ends.
      hits: [N, N] bool, hits[i, j]: i's beam reaches live avatar j.
      board: [H, ceil(W / 32)] uint32 bit board of the lit cells (see `boards.paint`).
    """

    fired: Array
    flat: Array
    lit: Array
    hits: Array
    board: Array


def aim(avatars: Avatars, beam: Beam, terrain: Terrain) -> Aim:
    """The cells in front of every avatar that `beam` covers."""
    shape = footprint(beam.length, beam.radius)
    at = padded(avatars.row, avatars.col, terrain)
    index = at[:, None] + by_heading(shape.offsets(terrain.stride), avatars.heading)
    return Aim(look_up(terrain.home, index), look_up(terrain.padded_wall, index))


def by_heading(table: np.ndarray, heading: Array) -> Array:
    """[N, ...] rows of a table [4, ...] at headings [N]."""
    heading = heading.reshape(-1, *(1,) * (table.ndim - 1))
    low = jnp.where((heading & 1) == 0, table[0], table[1])
    high = jnp.where((heading & 1) == 0, table[2], table[3])
    return jnp.where(heading < 2, low, high)


def shoot(fired: Array, aimed: Aim, blocked: Array | None, avatars: Avatars, beam: Beam, terrain: Terrain) -> Shot:
    """Fire a beam.

    Args:
      fired: [N] bool, who fires.
      aimed: the cells, from `aim`.
      blocked: [N, K] bool, cells that block for a reason of the world's own; None for none.
      avatars: after the moves. beam: its kind. terrain: the map.
    """
    on = aimed.flat[:, :, None] == cells(avatars, terrain)
    stops = aimed.wall if blocked is None else aimed.wall | blocked
    if beam.stopped_by_avatars:
        stops = stops | jnp.any(on, axis=2)
    before = footprint(beam.length, beam.radius).before
    bit = np.left_shift(np.uint32(1), np.arange(len(before), dtype=np.uint32))
    barrier = jnp.sum(jnp.where(stops, bit, np.uint32(0)), axis=1, dtype=jnp.uint32)
    lit = fired[:, None] & ((barrier[:, None] & before) == 0)
    flat, shown = aimed.flat.reshape(-1), (lit & (aimed.flat < terrain.size)).reshape(-1)
    board = paint(flat // terrain.width, flat % terrain.width, shown, terrain.wall.shape)[0]
    return Shot(fired, aimed.flat, lit, jnp.any(on & lit[:, :, None], axis=1), board)


def struck(shot: Shot, targets: Array) -> Array:
    """[N, S] bool: whose beam reaches which of the flat cells `targets` [S]?"""
    return jnp.any(shot.lit[:, :, None] & (shot.flat[:, :, None] == targets), axis=1)


def reached(shot: Shot, targets: np.ndarray, width: int) -> Array:
    """[S] bool: does any beam reach each of the flat cells `targets` [S] (constants)? `width`: of the map."""
    row, col = targets // width, targets % width
    words = shot.board.reshape(-1).at[row * shot.board.shape[1] + col // 32].get(mode="promise_in_bounds")
    return ((words >> (col % 32).astype(np.uint32)) & 1) > 0
