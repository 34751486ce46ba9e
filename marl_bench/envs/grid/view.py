"""What avatars see: things painted into one map of small codes, a window around each avatar, channels.

Everything in a cell is one integer, a bit for each channel. A window then costs one lookup a cell instead of one for each
channel, whatever the heading: the offsets of the window's cells are a table of four rows. The bits become
channels last. Spec: social dilemmas, section 1.6.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid.apart import apart
from marl_bench.envs.grid.avatars import Avatars, padded
from marl_bench.envs.grid.beams import by_heading
from marl_bench.envs.grid.boards import paint, plane
from marl_bench.envs.grid.geometry import PAD, Terrain, Window

Array = jax.Array


def windows(board: Array, avatars: Avatars, terrain: Terrain, window: Window, outside: int) -> Array:
    """Each avatar's window of a map.

    Args:
      board: [H, W] codes. avatars: who looks. terrain: the map. window: what they see.
      outside: code of the cells outside the map.
    Returns:
      [N, cells] codes, row by row, row 0 farthest ahead.
    """
    around = jnp.pad(board, PAD, mode="wrap") if terrain.torus else jnp.pad(board, PAD, constant_values=outside)
    at = padded(avatars.row, avatars.col, terrain)
    index = at[:, None] + by_heading(window.offsets(terrain.stride), avatars.heading)
    return around.reshape(-1).at[index].get(mode="promise_in_bounds")


def channels(bits: Array, num: int) -> Array:
    """[..., num] uint8 zeros and ones: the lowest `num` bits of [...] uint32."""
    return ((bits[..., None] >> np.arange(num, dtype=np.uint32)) & 1).astype(jnp.uint8)


def relative_heading(code: Array, own: Array) -> Array:
    """[...] one-hot nibble of (heading - own) mod 4; `code`, `own` [...] headings 0 ... 3."""
    return np.uint32(1) << ((code.astype(jnp.uint32) - own.astype(jnp.uint32)) & np.uint32(3))


def as_code(bits: Any) -> Array:
    """uint32 of booleans or small integers."""
    return jnp.asarray(bits).astype(jnp.uint32)


def code_map(world: Any, state: Any) -> tuple[Array, int]:
    """Everything on the map in one integer a cell.

    Bit 0 is wall, then `world.code_bits` bits of resources, one that says whether there is a live avatar, two of its
    heading, one that says whether it is frozen (where the world freezes), its number + 1 (if `show_ids`), and one bit
    for each kind of beam.

    Returns:
      code: [H, W] uint16 or uint32, and the number of its bits.
    """
    terrain, avatars = world.terrain, state.avatars
    bits, planes = avatar_bits(world, avatars)
    things = jnp.concatenate([paint(avatars.row, avatars.col, bits, terrain.wall.shape, planes), state.lit])
    shift = 1 + world.code_bits
    total = shift + planes + len(world.beams)
    kind = jnp.uint16 if total <= 16 else jnp.uint32
    code = terrain.wall.astype(kind) | (jnp.asarray(world.resource_code(state)).astype(kind) << kind(1))
    for index in range(planes + len(world.beams)):
        code = code | (plane(things[index], terrain.width).astype(kind) << kind(shift + index))
    return code, total


def avatar_bits(world: Any, avatars: Avatars) -> tuple[Array, int]:
    """[N] uint32 code of each avatar (0 if away), and the number of its bits; see `code_map`."""
    bits = np.uint32(1) | (as_code(avatars.heading) << np.uint32(1))
    planes = 3
    if world.freezes:
        bits = bits | (as_code(avatars.frozen > 0) << np.uint32(planes))
        planes += 1
    if world.show_ids:
        bits = bits | (np.arange(1, world.players + 1, dtype=np.uint32) << np.uint32(planes))
        planes += world.players.bit_length()
    return jnp.where(avatars.alive, bits, np.uint32(0)), planes


@functools.partial(jax.jit, inline=True)
def views(world: Any, state: Any) -> Array:
    """[N, rows, columns, channels] uint8 views, channels as in `world.channels`."""
    avatars, window = state.avatars, world.window
    code, total = code_map(world, state)
    bits = apart(lambda code, avatars: seen_bits(world, code, avatars), state.step_count, code, avatars)
    width = len(world.channels) - (world.players if world.show_ids else 0)
    seen = channels(bits, width)
    if world.show_ids:
        digits = world.players.bit_length()
        number = windows(code, avatars, world.terrain, window, 1) >> (total - len(world.beams) - digits)
        number = jnp.where(avatars.alive[:, None], number & ((1 << digits) - 1), 0)
        ids = number[..., None] == np.arange(1, world.players + 1)
        seen = jnp.concatenate([seen, ids.astype(jnp.uint8)], axis=-1)
    return seen.reshape(world.players, *window.shape, seen.shape[-1])


def seen_bits(world: Any, code: Array, avatars: Avatars) -> Array:
    """[N, cells] uint32, bit c is channel c of a view (identities apart), from the code map [H, W]."""
    window = world.window
    seen = windows(code, avatars, world.terrain, window, outside=1).astype(jnp.uint32)
    own = np.arange(seen.shape[1]) == window.own
    beams = len(world.beams)
    shift = np.uint32(1 + world.code_bits)
    resources = world.decode((seen >> np.uint32(1)) & np.uint32((1 << world.code_bits) - 1))
    here = (seen >> shift) & np.uint32(1)
    facing = here * relative_heading((seen >> (shift + np.uint32(1))) & np.uint32(3), avatars.heading[:, None])
    _, planes = avatar_bits(world, avatars)
    lit = (seen >> (shift + np.uint32(planes))) & np.uint32((1 << beams) - 1)
    parts = [(seen & 1, 1), (resources, len(world.resource_channels))]
    parts += [(here & own, 1), (here & ~own, 1), (facing, 4), (lit, beams)]
    if world.freezes:
        parts.append(((seen >> (shift + np.uint32(3))) & 1, 1))
    for index in range(beams):
        parts.append((as_code(avatars.waits[:, index] == 0)[:, None] * own.astype(np.uint32), 1))
    bits, place = jnp.zeros_like(seen), 0
    for part, width in parts:
        bits = bits | (part << np.uint32(place))
        place += width
    return jnp.where(avatars.alive[:, None], bits, np.uint32(0))
