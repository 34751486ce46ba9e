"""Mean-field limits of swarms as plain functions: one step of a distribution on cells, without agents and without chance.

Source: spec dec_pomfc.md sections 1.2 and 1.3. The state of infinitely many agents is a distribution; what they do on what they see, a decision
rule, pushes it forward. Mass sits in the middle of its cell, so that errors are of second order in the width of a cell.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def middles(cells: int, half: float) -> np.ndarray:
    """[cells] float32 middles of equal cells of [-half, half]."""
    return np.float32(half) * ((2 * np.arange(cells, dtype=np.float32) + 1) / cells - 1)


def below(edge: Array, spread: Any) -> Array:
    """Share of a normal distribution around 0 below `edge`; with spread 0 a step."""
    return jax.scipy.stats.norm.cdf(edge / jnp.maximum(spread, 1e-9))


def sensed(cells: int, half_side: Any, spread: Any) -> Array:
    """[cells, cells] share of the readings in cell y of those who are in cell x, cut off at the walls of the box.

    Args:
      half_side: B. spread: standard deviation of a reading.
    """
    width = 2 * half_side / cells
    gap = (np.arange(1, cells)[None] - np.arange(cells)[:, None] - np.float32(0.5)) * width
    inner = below(gap, spread)
    edge = jnp.zeros((cells, 1))
    return jnp.diff(jnp.concatenate([edge, inner, edge + 1], axis=1), axis=1)


def aggregated(mass: Array, push: Array, half_side: Any, speed: Any, motion: Any, sensor: Any) -> Array:
    """[cells] masses of `aggregation` in one dimension a step later.

    Args:
      mass: [cells] shares of the agents, middles of cells as in `middles`.
      push: [cells] action in [-1, 1] on a reading in each cell. speed: length of the longest step.
      motion, sensor: standard deviations of the noise of motion and of readings, lengths.
    """
    cells = mass.shape[0]
    width = 2 * half_side / cells
    # Displacements by whole cells: first their law for each reading, then for each place.
    edges = (np.arange(2 * cells) - cells + np.float32(0.5)) * width
    law = jnp.diff(below(edges[None] - speed * push[:, None], motion), axis=1)
    moved = mass[:, None] * jnp.matmul(sensed(cells, half_side, sensor), law, precision="highest")
    # Sums over x of what lands in x + d: cut into rows one shorter than they were, each row begins one place later than the one before.
    row = 3 * cells - 1
    sheared = jnp.pad(moved, ((0, 0), (0, cells))).reshape(-1)[: cells * (row - 1)].reshape(cells, row - 1)
    landed = jnp.sum(sheared, axis=0)
    inner = landed[cells - 1 : 2 * cells - 1]
    return inner.at[0].add(jnp.sum(landed[: cells - 1])).at[-1].add(jnp.sum(landed[2 * cells - 1 :]))


def fanned(mass: Array, turn: Array, noise: Any) -> Array:
    """[F, cells] masses on a circle a step later.

    Args:
      mass: [F, cells] shares of F kinds of agents, in equal cells of the circle from -pi on.
      turn: [F, cells] radians by which those in a cell turn; each mass is split between the two cells nearest to where it ends.
      noise: standard deviation of the turn's noise, radians.
    """
    kinds, cells = mass.shape
    place = jnp.arange(cells) + turn * np.float32(cells / (2 * np.pi))
    left = jnp.floor(place)
    share = place - left
    left = left.astype(jnp.int32) % cells
    row = np.arange(kinds)[:, None]
    moved = jnp.zeros_like(mass).at[row, left].add(mass * (1 - share)).at[row, (left + 1) % cells].add(mass * share)
    # The noise is a convolution with a wrapped normal distribution.
    waves = np.arange(cells // 2 + 1, dtype=np.float32)
    spectrum = jnp.fft.rfft(moved) * jnp.exp(-0.5 * jnp.square(noise * waves))
    return jnp.maximum(jnp.fft.irfft(spectrum, n=cells), 0)
