"""Sums over the neighbours of every agent by cell lists: the cost grows linearly with the number of agents.

Agents are sorted by rows of cells and, along a row, by narrow columns. Whoever is within reach of an agent then lies in three stretches
of memory, one in each row, that go on at the other end of a row where the surface is glued. `LANES` agents side by side, a group, share
these stretches. There is no capacity that could overflow: a group looks at everyone in its stretches, however long they are.

Source: cell lists as in every molecular-dynamics code (Allen and Tildesley 1987, chapter 5); spec swarm_envs.md section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.swarms import surfaces
from marl_bench.envs.swarms.surfaces import Place, Sight

Array = jax.Array

Term = Callable[[Sight], tuple[Array, ...]]
"""What a neighbour adds to the sums of the agent that sees it: arrays like those of the `Sight`."""

LEAST_CELLS = 3
"""Cells a side that cell lists need, so that the rows around an agent are different ones."""

MOST_CELLS = 16_384
"""Cells a side up to which a column and a row fit into one word."""

COLUMNS = 4
"""Columns into which a cell is cut: the narrower, the fewer candidates out of reach."""

LANES = 8
"""Agents of a group: one fetch of a candidate serves them all."""

BLOCK = 1000
"""Groups that look at their candidates at once (powers of two share lines of the cache and are slower)."""

FETCHED = 8
"""Candidates that a group fetches at once."""


class Groups(NamedTuple):
    """G groups of neighbouring agents, ordered by the number of their candidates.

    Attributes:
      row: [G] int32 row of cells. first, size: [G] int32 place of the first agent in sorted order, and number of agents, 0 ... LANES.
      ends: S times [G] int32: number of candidates in the first 1, 2, ... S stretches.
      shift: S times [G] int32: candidate k, in stretch s, is agent k + shift[s] in sorted order.
    """

    row: Array
    first: Array
    size: Array
    ends: tuple[Array, ...]
    shift: tuple[Array, ...]


def cell_lists(surface: str, place: Place, radius: Any, side: Any, cells: int, term: Term) -> tuple[Array, ...]:
    """(number of neighbours, *sums of `term` over them), [N] each; see `neighbours` for who is one.

    Memory grows with N; time with N times the number of agents in nine cells.

    Args:
      place: [N] agents in the chart. radius, side: lengths. term: see `Term`.
      cells: cells a side; at least `LEAST_CELLS`, and side / cells must not be below the radius: where it is (a number that is
        known only when the program runs), all sums are NaN.
    """
    count, columns = place.x.shape[0], cells * COLUMNS
    row, column = (
        jnp.clip((axis * (parts / side)).astype(jnp.int32), 0, parts - 1)
        for axis, parts in ((place.y, cells), (place.x, columns))
    )
    spot = row * columns + column
    order = sorting_order(spot, cells * columns)
    number = jnp.zeros(cells * columns, jnp.int32).at[spot].add(1)
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(number)])
    reach = jnp.floor(radius * (columns / side) * np.float32(1 + 1e-6)).astype(jnp.int32) + 1
    groups = _grouped(surface, cells, before, column[order], reach)
    packed = jnp.stack(place)[:, order]

    def of_block(block: Groups) -> tuple[Array, ...]:
        return _sums(surface, block, packed, radius, side, cells, term)

    # Block by block: sums and candidates of a block stay in the cache.
    size = min(BLOCK, groups.row.shape[0])
    blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, size), groups)
    sums = jax.lax.map(of_block, blocks)
    lane = jnp.arange(LANES)[:, None]
    sorted_place = jnp.where(lane < blocks.size[:, None], blocks.first[:, None] + lane, count)
    agent = jnp.append(order, count)[sorted_place]
    faulty = jnp.where(radius * cells > side * np.float32(1 + 1e-6), jnp.nan, 0.0)
    return tuple(jnp.zeros(count).at[agent].set(total, mode="drop") + faulty for total in sums)


def sorting_order(key: Array, bound: int) -> Array:
    """[N] int32 stable order of integers [N] in [0, bound): a radix sort by digits that fit into a word together with an index.

    Words alone are sorted several times as fast as keys with indices.
    """
    count = key.shape[0]
    index_bits = max((count - 1).bit_length(), 1)
    digit_bits = 32 - index_bits
    index = jnp.arange(count, dtype=jnp.uint32)
    key, order = key.astype(jnp.uint32), index
    for low in range(0, (bound - 1).bit_length(), digit_bits):
        digit = (key[order] >> low) & ((1 << digit_bits) - 1)
        order = order[jnp.sort((digit << index_bits) | index) & ((1 << index_bits) - 1)]
    return order.astype(jnp.int32)


def _grouped(surface: str, cells: int, before: Array, column: Array, reach: Array) -> Groups:
    """Cut each row's agents into groups and find the stretches of their candidates.

    Args:
      before: [rows * columns + 1] int32 number of agents in all earlier bins.
      column: [N] int32 columns of the agents in sorted order. reach: [] columns that a radius spans.
    """
    count, columns = column.shape[0], cells * COLUMNS
    row_start = before[::columns]
    parts = -(-(row_start[1:] - row_start[:-1]) // LANES)
    part_start = jnp.cumsum(parts) - parts
    most = -(-count // LANES) + cells
    block = min(BLOCK, most)
    index = jnp.arange(-(-most // block) * block)
    # The row of the first group of each row, carried on to the others.
    row = (
        jnp.zeros(index.size, jnp.int32)
        .at[jnp.where(parts > 0, part_start, index.size)]
        .max(jnp.arange(cells, dtype=jnp.int32), mode="drop")
    )
    row = jax.lax.cummax(row)
    first = row_start[row] + (index - part_start[row]) * LANES
    size = jnp.clip(row_start[row + 1] - first, 0, LANES)
    first = jnp.minimum(first, count - 1)
    low, high = column[first] - reach, column[jnp.maximum(first + size - 1, 0)] + reach
    ends, shift, total = [], [], jnp.zeros_like(size)
    for a, up in stretches(surface):
        start, end = _stretch(surface, cells, before, row + up, a, low, high)
        shift.append(start - total)
        total += jnp.where(size > 0, end - start, 0)
        ends.append(total)
    groups = Groups(row, first, size, tuple(ends), tuple(shift))
    # In order of their numbers of candidates: a block's groups then end their loops together.
    index_bits = max((index.size - 1).bit_length(), 1)
    rank = sorting_order(jnp.minimum(total, (1 << (32 - index_bits)) - 1), 1 << (32 - index_bits))
    return jax.tree.map(lambda leaf: leaf[rank], groups)


def stretches(surface: str) -> tuple[tuple[int, int], ...]:
    """(number of seams crossed to the right, rows further up) of each stretch of candidates."""
    across = (-1, 0, 1) if surface in surfaces.GLUED else (0,)
    return tuple((a, up) for up in (-1, 0, 1) for a in across)


def _stretch(
    surface: str, cells: int, before: Array, row: Array, a: int, low: Array, high: Array
) -> tuple[Array, Array]:
    """[G] first and [G] last (exclusive) agents, in sorted order, of a row's columns low ... high that lie in tile a.

    `row`, `low` and `high` [G] go on beyond the chart.
    """
    columns = cells * COLUMNS
    left, right = jnp.clip(low - a * columns, 0, columns), jnp.clip(high + 1 - a * columns, 0, columns)
    b, row = row // cells, row % cells
    if surface in surfaces.FLIPPED and a % 2:
        row = cells - 1 - row
    if surface == "rp2":
        odd = b % 2 == 1
        left, right = jnp.where(odd, columns - right, left), jnp.where(odd, columns - left, right)
    if surface not in surfaces.GLUED_TOP:
        right = jnp.where(b == 0, right, left)
    return before[row * columns + left], before[row * columns + right]


class _Candidates(NamedTuple):
    """Candidates of each group of a block, [FETCHED, G] each.

    Attributes:
      agent: int32 places in sorted order.
      there: their images; infinitely far where there are no more.
      rival: for rp2 only, see `_Rival`.
    """

    agent: Array
    there: Place
    rival: _Rival | None


class _Rival(NamedTuple):
    """The other image of a candidate that can be within reach, too: turned by half a circle about the nearest cone point of rp2.

    Attributes:
      x, y: of the cone point. dx, dy: from there to the candidate's image.
      later: bool, whether the other image lies in a later tile, so that this one counts where both are as near.
    """

    x: Array
    y: Array
    dx: Array
    dy: Array
    later: Array


def _sums(
    surface: str, groups: Groups, packed: Array, radius: Any, side: Any, cells: int, term: Term
) -> tuple[Array, ...]:
    """[LANES, G] sums of the agents of a block of groups; `packed`: [4, N] places in sorted order."""
    own = groups.first + jnp.minimum(jnp.arange(LANES)[:, None], jnp.maximum(groups.size - 1, 0))
    eye = Place(*packed[:, own])
    terms = len(jax.eval_shape(lambda x: term(Sight(x, x, x, x, x)), eye.x))

    def add(sums: tuple[Array, ...], candidate: _Candidates) -> tuple[Array, ...]:
        sight = surfaces.seen(eye, candidate.there)
        near = (sight.squared < radius * radius) & (candidate.agent != own)
        if candidate.rival is not None:
            # The nearer image counts, once: the one on the agent's own side of the cone point. Seen from the rival, all signs change.
            rival = candidate.rival
            along = (eye.x - rival.x) * rival.dx + (eye.y - rival.y) * rival.dy
            near &= (along > 0) | ((along == 0) & rival.later)
        values = (jnp.ones_like(sight.squared), *term(sight))
        return tuple(total + jnp.where(near, value, 0) for total, value in zip(sums, values, strict=True))

    def visit(index: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        fetched = _fetched(surface, groups, packed, index * FETCHED + jnp.arange(FETCHED)[:, None], side, cells)

        # A loop of its own, because the compiler would otherwise fetch anew in every sum.
        def add_one(step: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            one = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, step, keepdims=False), fetched)
            return add(sums, one)

        return jax.lax.fori_loop(0, FETCHED, add_one, sums)

    visits = (jnp.max(groups.ends[-1]) + FETCHED - 1) // FETCHED
    return jax.lax.fori_loop(0, visits, visit, (jnp.zeros(own.shape),) * (1 + terms))


def _fetched(surface: str, groups: Groups, packed: Array, rank: Array, side: Any, cells: int) -> _Candidates:
    """Candidates number `rank` [FETCHED, 1] of each group."""
    found = stretches(surface)
    shift, a, up = groups.shift[0], jnp.int32(found[0][0]), jnp.int32(found[0][1])
    for stretch in range(1, len(found)):
        later = rank >= groups.ends[stretch - 1]
        choice = (groups.shift[stretch], *found[stretch])
        shift, a, up = (jnp.where(later, new, old) for new, old in zip(choice, (shift, a, up), strict=True))
    agent = jnp.clip(rank + shift, 0, packed.shape[1] - 1)
    other = Place(*packed.at[:, agent].get(mode="promise_in_bounds"))
    row = groups.row + up
    b = jnp.where(row < 0, -1, jnp.where(row >= cells, 1, 0))
    there = surfaces.image(surface, other, a, b, side)
    there = there._replace(x=jnp.where(rank < groups.ends[-1], there.x, jnp.inf))
    return _Candidates(agent, there, _rival(other, a, b, side) if surface == "rp2" else None)


def _rival(other: Place, a: Array, b: Array, side: Any) -> _Rival:
    """What rivals the images in tile (a, b) of rp2 of places `other` in the chart."""
    # Offsets from the corners of the chart, not from those of the tile: both images then have the same up to the sign, exactly.
    right, top = other.x > side / 2, other.y > side / 2
    turned_x, turned_y = b % 2 == 1, a % 2 == 1
    dx, dy = jnp.where(right, other.x - side, other.x), jnp.where(top, other.y - side, other.y)
    dx, dy = jnp.where(turned_x, -dx, dx), jnp.where(turned_y, -dy, dy)
    column, row = a + (right != turned_x), b + (top != turned_y)
    later = 3 * (2 * column - 1 - a) + 2 * row - 1 - b > 3 * a + b
    return _Rival(column * side, row * side, dx, dy, later)
