"""Avatars: their state, timers, moves, and the three ways to settle who enters a contested cell.

Plain functions on arrays of N avatars. Spec: social dilemmas, sections 1.1 to 1.3 and 1.5.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.envs.grid.geometry import PAD, Terrain
from marl_bench.envs.grid.sites import choose

Array = jax.Array

NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT = range(7)
"""Actions of every grid world; beams follow from 7 on."""

RESOLVERS = ("train", "sequential", "strict")

FOREVER = 32767
"""Value of `away` of an avatar that does not come back."""


@struct.dataclass
class Avatars:
    """State of N avatars. Timers count the further actions that are lost; 0 means none.

    Attributes:
      row: [N] int8. col: [N] int8. Where an avatar stands; its last place while it is away.
      heading: [N] int8, 0 north, 1 east, 2 south, 3 west.
      away: [N] int16, steps until it reappears; 0 for a live avatar, `FOREVER` if it does not come back.
      frozen: [N] int8, steps in which it can neither act nor turn.
      waits: [N, beams] int8, steps in which each beam cannot be fired.
    """

    row: Array
    col: Array
    heading: Array
    away: Array
    frozen: Array
    waits: Array

    @property
    def alive(self) -> Array:
        """[N] bool: on the map?"""
        return self.away == 0

    @property
    def active(self) -> Array:
        """[N] bool: may it act in the next step?"""
        return (self.away == 0) & (self.frozen == 0)


def cells(avatars: Avatars, terrain: Terrain) -> Array:
    """[N] int32 flat cell of each live avatar; those away have numbers below 0 that nobody shares."""
    flat = avatars.row.astype(jnp.int32) * terrain.width + avatars.col
    return jnp.where(avatars.alive, flat, -1 - np.arange(flat.shape[0], dtype=np.int32))


def padded(row: Array, col: Array, terrain: Terrain) -> Array:
    """[N] int32 padded number (see `geometry`) of positions [N]."""
    return (row.astype(jnp.int32) + PAD) * terrain.stride + col + PAD


def look_up(table: np.ndarray | Array, index: Array) -> Array:
    """[...] entries of a table [M] at indices that are known to be inside."""
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds")


@functools.partial(jax.jit, inline=True)
def tick(avatars: Avatars) -> tuple[Avatars, Array]:
    """Let the timers run for one step.

    Returns:
      avatars: with timers one lower; those due are still where they were, see `place`.
      due: [N] bool, avatars that reappear in this step.
    """
    due = avatars.away == 1
    gone = (avatars.away > 0) & (avatars.away < FOREVER)
    return avatars.replace(  # pyright: ignore[reportAttributeAccessIssue]
        away=avatars.away - gone,
        frozen=avatars.frozen - (avatars.frozen > 0),
        waits=avatars.waits - (avatars.waits > 0),
    ), due


def place(occupied: Array, due: Array, spawns: np.ndarray, words: Array) -> Array:
    """Put avatars on spawn cells: one after the other, each on a uniform one that is free.

    Args:
      occupied: [N] int32 flat cells of avatars; what those due have there does not count.
      due: [N] bool, avatars to put down. There must be at least N spawn cells.
      spawns: [S] int32 flat cells.
      words: [N] uint32 uniform words.
    Returns:
      [N] int32 flat cells; unchanged for those not due.
    """
    number = np.arange(occupied.shape[0], dtype=np.int32)

    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        taken, due = carry
        chosen = number == jnp.argmax(due)
        free = ~jnp.any(taken[None] == spawns[:, None], axis=1)
        word = jnp.sum(jnp.where(chosen, words, np.uint32(0)), dtype=jnp.uint32)
        cell = jnp.sum(jnp.where(choose(free, word), spawns, 0), dtype=jnp.int32)
        return jnp.where(chosen, cell, taken), due & ~chosen

    # Under vmap the loop ends once no environment of the batch has an avatar left to place: most steps, at once.
    away = jnp.where(due, -1 - number, occupied)
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), body, (away, due))[0]


def put(avatars: Avatars, due: Array, terrain: Terrain, spawns: np.ndarray, words: Array) -> Avatars:
    """Avatars with those that are `due` [N] on free spawn cells (see `place`), their headings uniform."""
    flat = place(cells(avatars, terrain), due, spawns, words)
    # The upper 24 bits of the word have chosen the cell.
    heading = (words & np.uint32(3)).astype(jnp.int8)
    return avatars.replace(  # pyright: ignore[reportAttributeAccessIssue]
        row=jnp.where(due, flat // terrain.width, avatars.row).astype(jnp.int8),
        col=jnp.where(due, flat % terrain.width, avatars.col).astype(jnp.int8),
        heading=jnp.where(due, heading, avatars.heading),
    )


def remove(avatars: Avatars, out: Array, steps: Any) -> Avatars:
    """Avatars with those of `out` [N] bool away for `steps` (a number or [N]); `FOREVER` for good."""
    away = jnp.where(out, jnp.asarray(steps, jnp.int16), avatars.away)
    return avatars.replace(away=away)  # pyright: ignore[reportAttributeAccessIssue]


def freeze(avatars: Avatars, who: Array, steps: Any) -> Avatars:
    """Avatars with those of `who` [N] bool frozen for `steps` (a number or [N])."""
    frozen = jnp.where(who, jnp.asarray(steps, jnp.int8), avatars.frozen)
    return avatars.replace(frozen=frozen)  # pyright: ignore[reportAttributeAccessIssue]


def turn(heading: Array, actions: Array) -> Array:
    """[N] int8 headings after actions [N]."""
    step = (actions == TURN_RIGHT).astype(jnp.int8) - (actions == TURN_LEFT).astype(jnp.int8)
    return (heading + step) & np.int8(3)


def wanted(row: Array, col: Array, heading: Array, actions: Array) -> tuple[Array, Array, Array]:
    """Where avatars want to go: rows and columns [N] int8 (possibly outside), and whether they want to move [N]."""
    moves = (actions >= FORWARD) & (actions <= STEP_RIGHT)
    turns = jnp.where(
        actions == BACKWARD, 2, jnp.where(actions == STEP_LEFT, 3, jnp.where(actions == STEP_RIGHT, 1, 0))
    )
    direction = (heading + turns) & 3
    down = (direction == 2).astype(jnp.int8) - (direction == 0).astype(jnp.int8)
    right = (direction == 1).astype(jnp.int8) - (direction == 3).astype(jnp.int8)
    return row + moves * down, col + moves * right, moves


def resolve(here: Array, there: Array, words: Array, resolver: str) -> Array:
    """Who gets where it wants to go, when everybody moves at once.

    `train`: a stayer beats everybody and the highest priority wins a contested cell; losers stay, and so may block others
    in turn; two avatars cannot swap, longer rotations and followers of a leader who moves succeed. `sequential`:
    avatars act in random order, and a move succeeds if the cell is free at that moment. `strict`: no cell that was
    occupied is entered; the highest priority wins a contested one.

    Args:
      here: [N] int32 flat cells, all different.
      there: [N] int32 wanted cells; equal to `here` for those that stay.
      words: [N] uint32, priorities (all orders equally likely).
      resolver: one of `RESOLVERS`.
    Returns:
      [N] bool: who moves. The cells taken are all different.
    """
    number = np.arange(here.shape[0])
    others = number[:, None] != number[None]
    wants = there != here
    # [i, j]: does j hold the cell that i wants; do both want one cell; is j first?
    held = (there[:, None] == here[None]) & others
    same = (there[:, None] == there[None]) & others
    first = (words[None] > words[:, None]) | ((words[None] == words[:, None]) & (number[None] < number[:, None]))
    beaten = same & first
    if resolver == "strict":
        return wants & ~jnp.any(held | (beaten & wants[None]), axis=1)
    if resolver == "sequential":
        return _sequential(here, there, wants, jnp.sum(first & others, axis=1))
    moving = wants & ~jnp.any(held & held.T, axis=1)

    # At most N rounds, each of which stops somebody: the loop ends where nobody is stopped (two or three rounds).
    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        moving, _ = carry
        stopped = jnp.any((held & ~moving[None]) | (beaten & moving[None]), axis=1)
        return moving & ~stopped, jnp.any(moving & stopped)

    return jax.lax.while_loop(lambda carry: carry[1], body, (moving, jnp.any(moving)))[0]


def _sequential(here: Array, there: Array, wants: Array, rank: Array) -> Array:
    def body(turn: Array, now: Array) -> Array:
        acts = rank == turn
        target = jnp.sum(jnp.where(acts, there, 0))
        free = ~jnp.any((now == target) & ~acts)
        return jnp.where(acts & free, there, now)

    return wants & (jax.lax.fori_loop(0, here.shape[0], body, here) == there)


@functools.partial(jax.jit, inline=True, static_argnums=(4, 5))
def move(
    avatars: Avatars, actions: Array, solid: Array | None, words: Array, terrain: Terrain, resolver: str
) -> Avatars:
    """Turn and move all avatars at once; actions are NOOP for those that may not act.

    Args:
      avatars: before. actions: [N].
      solid: [H * W + 1] bool, cells that cannot be entered now; None for the walls of `terrain`.
      words: [N] uint32 priorities. terrain: the map. resolver: see `resolve`.
    """
    row, col, wants = wanted(avatars.row, avatars.col, avatars.heading, actions)
    at = padded(row, col, terrain)
    blocked = look_up(terrain.padded_wall, at) if solid is None else look_up(solid, look_up(terrain.home, at))
    if terrain.torus:
        row, col = row % terrain.height, col % terrain.width
    here = cells(avatars, terrain)
    flat = row.astype(jnp.int32) * terrain.width + col
    there = jnp.where(avatars.alive & wants & ~blocked, flat, here)
    moved = resolve(here, there, words, resolver)
    return avatars.replace(  # pyright: ignore[reportAttributeAccessIssue]
        row=jnp.where(moved, row, avatars.row).astype(jnp.int8),
        col=jnp.where(moved, col, avatars.col).astype(jnp.int8),
        heading=turn(avatars.heading, actions),
    )
