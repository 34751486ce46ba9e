"""What avatars see: things painted into one map of small codes, a window around each avatar, channels.

Everything in a cell is one integer, a bit for each channel. A window then costs one lookup a cell instead of one for each
channel, whatever the heading: the offsets of the window's cells are a table of four rows. The bits become
channels last. Spec: social dilemmas, section 1.6.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.grid.avatars import Avatars, padded
from marl_bench.envs.grid.beams import by_heading
from marl_bench.envs.grid.geometry import PAD, Terrain, Window

Array = jax.Array


def boards(row: Array, col: Array, bits: Array, terrain: Terrain, planes: int) -> Array:
    """Paint things into bit boards, without a scatter.

    Args:
      row: [K] rows of the things. col: [K] columns.
      bits: [K] integers, bit p set where the thing shows on plane p.
      terrain: the map. planes: P.
    Returns:
      [P, H, ceil(W / 32)] uint32, bit c % 32 of word c // 32 is column c; things on one cell are joined by "or".
    """
    words = -(-terrain.width // 32)
    bits = bits.astype(jnp.uint32)
    shown = (bits >> np.arange(planes, dtype=np.uint32)[:, None]) & 1  # [P, K]
    at = shown << (col.astype(jnp.uint32) & 31)  # [P, K]
    match = row == np.arange(terrain.height)[:, None]  # [H, K]
    if words == 1:
        painted = jnp.where(match, at[:, None, :], np.uint32(0))[:, :, None, :]
    else:
        word = (col.astype(jnp.int32) >> 5) == np.arange(words)[:, None]  # [words, K]
        painted = jnp.where(match[:, None, :] & word, at[:, None, None, :], np.uint32(0))
    return jax.lax.reduce(painted, np.uint32(0), jax.lax.bitwise_or, (3,))


def plane(board: Array, width: int) -> Array:
    """[..., H, W] uint32 zeros and ones of bit boards [..., H, ceil(W / 32)]."""
    spread = [
        (board[..., word, None] >> np.arange(min(32, width - 32 * word), dtype=np.uint32)) & 1
        for word in range(board.shape[-1])
    ]
    return spread[0] if len(spread) == 1 else jnp.concatenate(spread, axis=-1)


def paint_beam(flat: Array, lit: Array, terrain: Terrain) -> Array:
    """[H, ceil(W / 32)] uint32 bit board of the floor cells that beams light; `flat`, `lit` [N, K]."""
    flat, lit = flat.reshape(-1), lit.reshape(-1)
    on = lit & (flat < terrain.size)
    return boards(flat // terrain.width, flat % terrain.width, on, terrain, 1)[0]


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
    """[..., num] uint8 zeros and ones: the lowest `num` bits of [...] integers."""
    # Four bits at a time become four bytes: a product moves bit i to bit 8 i.
    groups = -(-num // 4)
    nibbles = (bits.astype(jnp.uint32)[..., None] >> (4 * np.arange(groups, dtype=np.uint32))) & np.uint32(15)
    bytes_ = (nibbles * np.uint32(0x00204081)) & np.uint32(0x01010101)
    spread = jax.lax.bitcast_convert_type(bytes_, jnp.uint8).reshape(*bits.shape, 4 * groups)
    return spread[..., :num]


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
    things = jnp.concatenate([boards(avatars.row, avatars.col, bits, terrain, planes), state.lit])
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


def views(world: Any, state: Any) -> Array:
    """[N, rows, columns, channels] uint8 views, channels as in `world.channels`."""
    avatars, window = state.avatars, world.window
    code, _ = code_map(world, state)
    seen = windows(code, avatars, world.terrain, window, outside=1)
    # Without the barrier every channel would look the window up again.
    seen = jax.lax.optimization_barrier(seen).astype(jnp.uint32)
    own = np.arange(seen.shape[1]) == window.own
    beams = len(world.beams)
    shift = np.uint32(1 + world.code_bits)
    resources = world.decode((seen >> np.uint32(1)) & np.uint32((1 << world.code_bits) - 1))
    here = (seen >> shift) & np.uint32(1)
    facing = here * relative_heading((seen >> (shift + np.uint32(1))) & np.uint32(3), avatars.heading[:, None])
    _, planes = avatar_bits(world, avatars)
    lit = seen >> (shift + np.uint32(planes))
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
    bits = jnp.where(avatars.alive[:, None], bits, np.uint32(0))
    seen_channels = channels(bits, place)
    if world.show_ids:
        digits = world.players.bit_length()
        number = (seen >> (shift + np.uint32(planes - digits))) & np.uint32((1 << digits) - 1)
        number = jnp.where(avatars.alive[:, None], number, np.uint32(0))
        ids = number[..., None] == np.arange(1, world.players + 1, dtype=np.uint32)
        seen_channels = jnp.concatenate([seen_channels, ids.astype(jnp.uint8)], axis=-1)
    return seen_channels.reshape(world.players, *window.shape, seen_channels.shape[-1])
