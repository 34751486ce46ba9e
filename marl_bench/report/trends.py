"""Does an outcome move with a condition: slope and rank correlation, with bootstrap intervals over clusters.

Rows that share a seed or a cell are not independent, so whole clusters are resampled (Field & Welsh 2007).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marl_bench.report.resampling import (
    Floats,
    Interval,
    check_settings,
    chunks,
    cluster_weights,
    percentile_interval,
)


def _rows(x: ArrayLike, y: ArrayLike, clusters: ArrayLike | None) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Checked [n] x, y and cluster indices, in an order that does not depend on the order of the input."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.ndim != 1 or xs.shape != ys.shape or xs.size < 2:
        raise ValueError(f"x has shape {xs.shape} and y {ys.shape}: need equal [n] with n >= 2")
    bad = int(np.count_nonzero(~(np.isfinite(xs) & np.isfinite(ys))))
    if bad:
        raise ValueError(f"{bad} of {xs.size} rows hold non-finite entries: drop them and report their number")
    if clusters is None:
        order = np.lexsort((ys, xs))
        return xs[order], ys[order], np.arange(xs.size)
    labels = np.asarray(clusters)
    if labels.shape != xs.shape:
        raise ValueError(f"clusters has shape {labels.shape}: must be that of x, {xs.shape}")
    index = np.unique(labels, return_inverse=True)[1]
    order = np.lexsort((ys, xs, index))
    return xs[order], ys[order], index[order]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient; 0, no trend, where a resample has no spread (the cautious reading)."""
    usable = denominator > 0.0
    return np.where(usable, numerator / np.where(usable, denominator, 1.0), 0.0)


def slope_interval(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Least-squares slope of y on x with a cluster bootstrap interval.

    Args:
      x: [n] condition (say B), not constant.
      y: [n] outcome (say cooperation).
      clusters: [n] label of the independent unit of each row (the seed, or the cell); None: every row is one.
      resamples: number of bootstrap samples.
      confidence: coverage in (0, 1).
      seed: of the generator.
    Returns:
      slope in units of y per unit of x; `n` is the number of clusters.
    Raises:
      ValueError: for unequal shapes, non-finite entries, a constant x, or a setting out of range.
    """
    check_settings(resamples, confidence)
    xs, ys, index = _rows(x, y, clusters)
    if np.all(xs == xs[0]):
        raise ValueError("x is constant: a slope needs at least two different conditions")
    xs = xs - xs.mean()
    ys = ys - ys.mean()
    count = int(index[-1]) + 1
    # Sums within clusters are sufficient, so a resample is one row of weights.
    sums = np.stack([np.bincount(index, column, count) for column in (np.ones_like(xs), xs, ys, xs * ys, xs * xs)], 1)

    def slopes(weights: Floats) -> Floats:
        n, sx, sy, sxy, sxx = (weights @ sums).T
        return _ratio(n * sxy - sx * sy, n * sxx - sx * sx)

    generator = np.random.default_rng(seed)
    parts = [slopes(cluster_weights(generator, rows, count)) for rows in chunks(resamples, count)]
    estimate = float(slopes(np.ones((1, count)))[0])
    return percentile_interval(np.concatenate(parts), estimate, confidence, [count])


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """[R, n] mid-ranks of `values` [n] when row i occurs weights[:, i] times."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    equal = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(equal, axis=1) - equal + (equal + 1.0) / 2.0
    group = np.empty(values.size, dtype=np.intp)
    group[order] = np.repeat(np.arange(starts.size), np.diff(starts, append=values.size))
    return ranks[:, group]


def _rank_correlations(xs: Floats, ys: Floats, weights: Floats) -> Floats:
    """[R] Spearman correlation for every row of weights [R, n]."""
    centre = (weights.sum(axis=1, keepdims=True) + 1.0) / 2.0
    rx, ry = _weighted_ranks(xs, weights) - centre, _weighted_ranks(ys, weights) - centre
    covariance = (weights * rx * ry).sum(axis=1)
    return _ratio(covariance, np.sqrt((weights * rx * rx).sum(axis=1) * (weights * ry * ry).sum(axis=1)))


def spearman_interval(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Spearman's rank correlation of x and y, ties at their mid-rank, with a cluster bootstrap interval.

    Args:
      x: [n] condition.
      y: [n] outcome.
      clusters: [n] label of the independent unit of each row (the seed, or the cell); None: every row is one.
      resamples: number of bootstrap samples; one without spread counts as 0.
      confidence: coverage in (0, 1).
      seed: of the generator.
    Returns:
      correlation in [-1, 1]; `n` is the number of clusters. All NaN when x or y is constant.
    Raises:
      ValueError: for unequal shapes, non-finite entries, or a setting out of range.
    """
    check_settings(resamples, confidence)
    xs, ys, index = _rows(x, y, clusters)
    count = int(index[-1]) + 1
    if np.all(xs == xs[0]) or np.all(ys == ys[0]):
        return Interval(float("nan"), float("nan"), float("nan"), count)
    generator = np.random.default_rng(seed)
    # Several [R, n] temporaries live at once, hence the smaller chunk.
    parts = [
        _rank_correlations(xs, ys, cluster_weights(generator, rows, count)[:, index])
        for rows in chunks(resamples, 4 * max(xs.size, count))
    ]
    estimate = float(_rank_correlations(xs, ys, np.ones((1, xs.size)))[0])
    return percentile_interval(np.concatenate(parts), estimate, confidence, [count])
