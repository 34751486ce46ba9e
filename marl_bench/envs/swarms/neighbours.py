"""Sums over the neighbours of every agent: all pairs, or cell lists whose cost grows linearly with the number of agents.

A neighbour of i is any other agent whose distance on the surface (`surfaces.sight`) is below the radius; it counts once, through
its nearest image, and an agent's own images never count. Both searches add up the same terms and differ in rounding only.
Source: spec swarm_envs.md section 3; cell lists as in every molecular-dynamics code (Allen and Tildesley 1987, chapter 5).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.swarms import surfaces
from marl_bench.envs.swarms.surfaces import Place, Sight

Array = jax.Array

Term = Callable[[Sight], tuple[Array, ...]]
"""What a neighbour adds to the sums of the agent that sees it: arrays like those of the `Sight`."""

BLOCK = 2048
"""Agents whose pairs are compared at once."""

CELL_BLOCK = 4096
"""Agents that look into the cells around them at once."""

LEAST_CELLS = 3
"""Cells a side that cell lists need, so that the nine cells around an agent are different ones."""

MOST_PAIRS = 16_384
"""Agents up to which comparing all pairs is offered."""


def all_pairs(surface: str, place: Place, radius: Any, side: Any, term: Term) -> tuple[Array, ...]:
    """(number of neighbours, *sums of `term` over them), [N] each, by comparing every agent with every other.

    Args:
      place: [N] agents in the chart. radius, side: lengths.
      term: see `Term`.
    """
    count = place.x.shape[0]
    agents = jnp.arange(count)

    def seen_from(eye: Place, agent: Array) -> tuple[Array, ...]:
        here, there = (jax.tree.map(lambda leaf: leaf[:, None], eye), jax.tree.map(lambda leaf: leaf[None], place))
        sight = surfaces.sight(surface, here, there, side)
        near = (sight.squared < radius * radius) & (agent[:, None] != agents[None])
        terms = (jnp.ones_like(sight.squared), *term(sight))
        return tuple(jnp.sum(jnp.where(near, value, 0), axis=1) for value in terms)

    return _by_blocks(seen_from, place, agents)


def all_pairs_moments(surface: str, place: Place, radius: Any, side: Any, harmonics: int) -> tuple[Array, ...]:
    """`all_pairs` of the cosines and sines of relative headings and their multiples, on a surface that mirrors nothing.

    The sum over neighbours of a relative heading is the sum of their headings, turned: one product of the matrix of who is near with the
    headings, a tenth of the time that sums over pairs take.

    Args:
      place: [N] agents in the chart. radius, side: lengths.
      harmonics: multiples 1 ... H of the heading.
    Returns:
      number of neighbours, then cosine and sine of each harmonic, [N] each.
    """
    count = place.x.shape[0]
    agents = jnp.arange(count)
    waves = [(place.cos, place.sin)]
    for _ in range(harmonics - 1):
        waves.append(_turned(waves[-1], (place.cos, place.sin)))
    columns = jnp.stack([jnp.ones(count), *itertools.chain(*waves)], axis=1)
    place = _stored(place)

    def sums_of(eye: Place, agent: Array) -> Array:
        here, there = (jax.tree.map(lambda leaf: leaf[:, None], eye), jax.tree.map(lambda leaf: leaf[None], place))
        squared = surfaces.sight(surface, here, there, side).squared
        near = (squared < radius * radius) & (agent[:, None] != agents[None])
        return jnp.matmul(near.astype(jnp.float32), columns, precision="highest")

    number, *sums = _by_blocks(sums_of, place, agents).T
    pairs = zip(sums[::2], sums[1::2], waves, strict=True)
    return (number, *itertools.chain(*(_turned((cos, sin), (wave[0], -wave[1])) for cos, sin, wave in pairs)))


def _stored(place: Place) -> Place:
    """The same places, out of a product with the unit matrix: a compiler that fuses would compute them anew for every pair."""
    return Place(*jnp.matmul(jnp.stack(place, axis=1), np.eye(4, dtype=np.float32), precision="highest").T)


def _turned(vector: tuple[Array, Array], by: tuple[Array, Array]) -> tuple[Array, Array]:
    """Products of complex numbers."""
    return vector[0] * by[0] - vector[1] * by[1], vector[0] * by[1] + vector[1] * by[0]


def _by_blocks(function: Callable[[Place, Array], Any], place: Place, agents: Array) -> Any:
    """`function` of blocks of at most `BLOCK` agents [n], its results [n, ...] put together."""
    count = agents.shape[0]
    if count <= BLOCK:
        return function(place, agents)
    blocks = -(-count // BLOCK)
    padded = jax.tree.map(
        lambda leaf: jnp.pad(leaf, (0, blocks * BLOCK - count)).reshape(blocks, BLOCK), (place, agents)
    )
    found = jax.lax.map(lambda block: function(*block), padded)
    return jax.tree.map(lambda value: value.reshape(blocks * BLOCK, *value.shape[2:])[:count], found)


def cell_lists(surface: str, place: Place, radius: Any, side: Any, cells: int, term: Term) -> tuple[Array, ...]:
    """The same as `all_pairs`, by looking only into the nine cells around each agent.

    Memory grows with N; time with N times the number of agents in the fullest cells. There is no capacity that could overflow.

    Args:
      cells: cells a side; at least `LEAST_CELLS`, and side / cells must not be below the radius: where it is (a number that is
        known only when the program runs), all sums are NaN.
    """
    count = place.x.shape[0]
    column, row = (jnp.clip((axis * (cells / side)).astype(jnp.int32), 0, cells - 1) for axis in (place.x, place.y))
    cell = row * cells + column
    order = jnp.argsort(cell, stable=True).astype(jnp.int32)
    number = jnp.zeros(cells * cells, jnp.int32).at[cell].add(1)
    first = jnp.cumsum(number) - number
    # Agents in the order of their cells: those that look into a cell together lie together in memory.
    agents = jax.tree.map(lambda leaf: leaf[order], place)
    packed = jnp.stack(agents)
    terms = len(jax.eval_shape(lambda x: term(Sight(x, x, x, x, x)), place.x))

    def of_block(block: tuple[Place, Array, Array]) -> tuple[Array, ...]:
        eye, cell, own = block

        def look(sums: tuple[Array, ...], offset: Array) -> tuple[tuple[Array, ...], None]:
            where, a, b = _beside(surface, cells, cell, offset[0], offset[1])
            start, size = first[where], jnp.where(where >= 0, number[where], 0)

            def visit(index: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
                candidate = jnp.minimum(start + index, count - 1)
                # One gather for all four: one each would be drawn into the loop's arithmetic and keep it from being vectorised.
                other = Place(*packed.at[:, candidate].get(mode="promise_in_bounds"))
                sight = surfaces.seen(eye, surfaces.image(surface, other, a, b, side))
                near = (index < size) & (sight.squared < radius * radius) & (candidate != own)
                if surface == "rp2":
                    # Near its cone points two images of one agent can be within the radius: the nearest one counts, once.
                    near &= _is_nearest(surface, eye, other, 3 * a + b, sight, side)
                values = (jnp.ones_like(sight.squared), *term(sight))
                return tuple(total + jnp.where(near, value, 0) for total, value in zip(sums, values, strict=True))

            return jax.lax.fori_loop(0, jnp.max(size), visit, sums), None

        zeros = tuple(jnp.zeros(eye.x.shape) for _ in range(1 + terms))
        return jax.lax.scan(look, zeros, jnp.asarray(_OFFSETS))[0]

    # Block by block: sums and candidates of a block stay in the cache, and only its own fullest cell bounds its loops.
    blocks = -(-count // CELL_BLOCK)
    size = min(count, CELL_BLOCK)
    padded = jax.tree.map(
        lambda leaf: jnp.pad(leaf, (0, blocks * size - count)).reshape(blocks, size),
        (agents, cell[order], jnp.arange(count)),
    )
    sums = [value.reshape(-1)[:count] for value in jax.lax.map(of_block, padded)]
    faulty = jnp.where(radius * cells > side * np.float32(1 + 1e-6), jnp.nan, 0.0)
    return tuple(jnp.zeros(count).at[order].set(total) + faulty for total in sums)


_OFFSETS = np.array([(right, up) for right in (-1, 0, 1) for up in (-1, 0, 1)], np.int32)


def _beside(surface: str, cells: int, cell: Array, right: Array, up: Array) -> tuple[Array, Array, Array]:
    """The cell `right` and `up` of each cell (-1 beyond a wall), and the tile (a, b) in which it is seen."""
    x, y = cell % cells + right, cell // cells + up
    a, b = x // cells, y // cells
    x, y = x % cells, y % cells
    if surface in surfaces.FLIPPED:
        y = jnp.where(a % 2 == 1, cells - 1 - y, y)
    if surface == "rp2":
        x = jnp.where(b % 2 == 1, cells - 1 - x, x)
    wall = jnp.zeros(cell.shape, bool)
    if surface not in surfaces.GLUED:
        wall |= a != 0
    if surface not in surfaces.GLUED_TOP:
        wall |= b != 0
    return jnp.where(wall, -1, y * cells + x), a, b


def _is_nearest(surface: str, eye: Place, other: Place, tile: Array, sight: Sight, side: Any) -> Array:
    """Whether `tile` (3 a + b) holds the nearest image of `other`, the first one where two are as near."""
    nearest = jnp.ones(sight.squared.shape, bool)
    for a, b in surfaces.tiles(surface):
        rival = surfaces.seen(eye, surfaces.image(surface, other, a, b, side)).squared
        earlier = 3 * a + b < tile
        # The tile's own image is no rival: computed twice, it may be rounded in two ways.
        nearest &= (3 * a + b == tile) | jnp.where(earlier, rival > sight.squared, rival >= sight.squared)
    return nearest
