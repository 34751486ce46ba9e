"""Sums over the neighbours of every agent by comparing all pairs, which defines what `cell_lists` computes for large swarms.

A neighbour of i is any other agent whose distance on the surface (`surfaces.sight`) is below the radius; it counts once, through
its nearest image, and an agent's own images never count. Both searches add up the same terms and differ in rounding only.
Source: spec swarm_envs.md section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.swarms import surfaces
from marl_bench.envs.swarms.cell_lists import Term
from marl_bench.envs.swarms.surfaces import Place

Array = jax.Array

BLOCK = 2048
"""Agents whose pairs are compared at once."""

MOST_PAIRS = 16_384
"""Agents up to which comparing all pairs is offered."""


def reach(squared: Array, radius: Any, softness: Any | None) -> Array:
    """How much a neighbour at a squared distance counts: 1 below the radius and 0 beyond, without a step if there is a softness tau.

    Then 1 falls to 0 between R - tau and R + tau, as 3 t^2 - 2 t^3 (continuously differentiable, so Lipschitz).
    """
    if softness is None:
        return (squared < radius * radius).astype(jnp.float32)
    t = jnp.clip((radius + softness - jnp.sqrt(squared)) / (2 * softness), 0, 1)
    return t * t * (3 - 2 * t)


def all_pairs(
    surface: str, place: Place, radius: Any, side: Any, term: Term, softness: Any | None = None
) -> tuple[Array, ...]:
    """(number of neighbours, *sums of `term` over them), [N] each, by comparing every agent with every other.

    Args:
      place: [N] agents in the chart. radius, side: lengths.
      term: see `Term`.
      softness: see `reach`.
    """
    count = place.x.shape[0]
    agents = jnp.arange(count)

    def seen_from(eye: Place, agent: Array) -> tuple[Array, ...]:
        here, there = (jax.tree.map(lambda leaf: leaf[:, None], eye), jax.tree.map(lambda leaf: leaf[None], place))
        sight = surfaces.sight(surface, here, there, side)
        near = jnp.where(agent[:, None] != agents[None], reach(sight.squared, radius, softness), 0)
        terms = (jnp.ones_like(sight.squared), *term(sight))
        return tuple(jnp.sum(near * value, axis=1) for value in terms)

    return _by_blocks(seen_from, place, agents)


def all_pairs_moments(
    surface: str, place: Place, radius: Any, side: Any, harmonics: int, softness: Any | None = None
) -> tuple[Array, ...]:
    """`all_pairs` of the cosines and sines of relative headings and their multiples, on a surface that mirrors nothing.

    The sum over neighbours of a relative heading is the sum of their headings, turned: one product of the matrix of who is near with the
    headings, a tenth of the time that sums over pairs take.

    Args:
      place: [N] agents in the chart. radius, side: lengths.
      harmonics: multiples 1 ... H of the heading.
      softness: see `reach`.
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
        near = jnp.where(agent[:, None] != agents[None], reach(squared, radius, softness), 0)
        return jnp.matmul(near, columns, precision="highest")

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
