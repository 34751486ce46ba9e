"""What an agent of a swarm sees of its neighbours: moments or a histogram of their headings (or phases) relative to its own.

Source: spec swarm_envs.md section 3.1, a reconstruction; with the hard radius and the division by the number of neighbours the view is not
a continuous function of the state.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.swarms import cell_lists, neighbours
from marl_bench.envs.swarms.surfaces import FLIPPED, Place, Sight, sight

Array = jax.Array

SENSORS = ("moment", "moment_count", "moment2", "sectors")
"""Mean of (cos, sin); the same and the number of neighbours; the same and the second harmonic; shares of sectors, and "alone"."""

LEAST_SHARE = 0.01
"""Of the swarm: with a soft radius, what the sums over neighbours are at least divided by, so that views stay continuous."""

MOST_COUNT = 3.0
"""Bound on the number of neighbours relative to that of a uniform swarm, as `moment_count` shows it."""


def size(sensor: str, sectors: int) -> int:
    """Length of a view."""
    return {"moment": 2, "moment_count": 3, "moment2": 4, "sectors": sectors + 1}[sensor]


def view(
    sensor: str,
    sectors: int,
    surface: str,
    place: Place,
    radius: Any,
    side: Any,
    cells: int | None,
    softness: Any | None = None,
) -> tuple[Array, Array]:
    """Views [N, d] of all agents, each entry in [-1, 1] (the count in [0, 3]), and numbers of neighbours [N].

    Args:
      sensor: one of `SENSORS`. sectors: number of equal sectors of `sectors`.
      place: [N] agents. radius, side: lengths.
      cells: cells a side of the neighbour search; None compares all pairs.
      softness: see `neighbours.reach`; with all pairs only. Sums are then divided by at least `LEAST_SHARE` of the swarm.
    """

    def term(sight: Sight) -> tuple[Array, ...]:
        if sensor == "sectors":
            turn = (jnp.arctan2(sight.sin, sight.cos) / (2 * np.pi)) % 1.0
            sector = jnp.minimum((turn * sectors).astype(jnp.int32), sectors - 1)
            return tuple(jnp.where(sector == index, 1.0, 0.0) for index in range(sectors))
        first = (sight.cos, sight.sin)
        if sensor == "moment2":
            return (*first, sight.cos * sight.cos - sight.sin * sight.sin, 2 * sight.cos * sight.sin)
        return first

    if cells is None and sensor != "sectors" and surface not in FLIPPED:
        harmonics = 2 if sensor == "moment2" else 1
        number, *sums = neighbours.all_pairs_moments(surface, place, radius, side, harmonics, softness)
    elif cells is None:
        number, *sums = neighbours.all_pairs(surface, place, radius, side, term, softness)
    else:
        number, *sums = cell_lists.cell_lists(surface, place, radius, side, cells, term)
    least = 1 if softness is None else LEAST_SHARE * place.x.shape[0]
    entries = [total / jnp.maximum(number, least) for total in sums]
    if sensor == "moment_count":
        expected = (place.x.shape[0] - 1) * np.pi * radius * radius / (side * side)
        entries.append(jnp.clip(number / expected, 0, MOST_COUNT))
    elif sensor == "sectors":
        entries.append(jnp.where(number == 0, 1.0, 0.0))
    return jnp.stack(entries, axis=1), number


def seen_by(surface: str, place: Place, radius: Any, side: Any) -> Array:
    """[N, N] bool: whom each agent sees, row by row; all pairs are compared."""
    eye, other = (Place(*(entry[index] for entry in place)) for index in ((slice(None), None), (None, slice(None))))
    squared = sight(surface, eye, other, side).squared
    return (squared < radius * radius) & ~jnp.eye(squared.shape[0], dtype=bool)


def order(cos: Array, sin: Array) -> Array:
    """[] length of the mean of unit vectors [N]: 1 if all are alike, about sqrt(pi / 4N) if they are random."""
    squared = jnp.square(jnp.mean(cos)) + jnp.square(jnp.mean(sin))
    # The root's derivative at 0 is 0 instead of infinity; rounding may end above 1.
    return jnp.minimum(jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0), 1)
