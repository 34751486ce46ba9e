"""Where cooperation collapses: the boundary Dr*(B) at a cut-off level of the seed mean.

For fixed B let m(Dr) be the seed-mean cooperation. Scan Dr upwards; at the first pair of neighbours where
m - cutoff changes sign, interpolate linearly. If m stays above the cut-off everywhere the boundary lies beyond the
grid (right-censored, drawn at the largest Dr); if it stays below, before the grid (left-censored, drawn at the
smallest). A mean exactly on the cut-off counts as above (own choice): a curve that falls through a grid point crosses
there.

The level only draws the line: boundaries at different cut-offs are not comparable.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from marl_bench.report.resampling import (
    Floats,
)

Status = Literal["interior", "right-censored", "left-censored"]


class Boundary(NamedTuple):
    """A collapse boundary.

    Attributes:
      value: Dr*, or the end of the grid at which a censored one is drawn.
      status: "interior", "right-censored" (Dr* is at least `value`) or "left-censored" (at most `value`).
    """

    value: float
    status: Status


def _grid(dr_values: ArrayLike, columns: int) -> tuple[Floats, np.ndarray]:
    """Sorted grid and the order that sorts it."""
    grid = np.asarray(dr_values, dtype=np.float64)
    if grid.ndim != 1 or grid.size == 0 or grid.size != columns:
        raise ValueError(f"dr_values has shape {grid.shape} for {columns} columns of cooperation: give one Dr a column")
    order = np.argsort(grid)
    if not np.all(np.isfinite(grid)) or np.any(np.diff(grid[order]) == 0.0):
        raise ValueError("dr_values holds a repeated or non-finite entry: give every Dr once")
    return grid[order], order


def _first_crossing(grid: Floats, means: Floats, cutoff: float) -> tuple[Floats, np.ndarray]:
    """[R] boundary of each row of means [R, D], and [R] whether it is interior."""
    excess = means - cutoff
    above = excess >= 0.0
    changes = above[:, 1:] != above[:, :-1]
    interior = changes.any(axis=1)
    end = np.where(above[:, 0], grid[-1], grid[0])
    if not interior.any():
        return end, interior
    at = changes.argmax(axis=1)
    rows = np.arange(means.shape[0])
    left, right = excess[rows, at], excess[rows, at + 1]
    step = np.where(interior, left - right, 1.0)
    crossing = grid[at] + (grid[at + 1] - grid[at]) * left / step
    return np.where(interior, crossing, end), interior


def collapse_boundary(dr_values: ArrayLike, means: ArrayLike, cutoff: float) -> Boundary:
    """First crossing of the cut-off by the seed-mean cooperation, scanning Dr upwards.

    Args:
      dr_values: [D] dilemma strengths, in any order, each once.
      means: [D] seed-mean cooperation, in [0, 1].
      cutoff: level of cooperation that defines the boundary.
    Raises:
      ValueError: for unequal lengths, a repeated Dr, or a non-finite entry.
    """
    levels = np.asarray(means, dtype=np.float64)
    grid, order = _grid(dr_values, levels.size)
    if levels.ndim != 1 or not np.all(np.isfinite(levels)) or not np.isfinite(cutoff):
        raise ValueError("means or cutoff is not finite: drop those conditions before looking for the boundary")
    value, interior = _first_crossing(grid, levels[order][None, :], cutoff)
    if interior[0]:
        return Boundary(float(value[0]), "interior")
    return Boundary(float(value[0]), "right-censored" if levels[order][0] >= cutoff else "left-censored")
