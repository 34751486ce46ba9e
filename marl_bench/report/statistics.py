"""Statistics over seeds: point estimates with intervals, effect sizes, trends.

Every interval is an `Interval(estimate, low, high, n)`. Bootstrap intervals are percentile intervals (Efron 1979)
from a seeded generator, so equal inputs give equal outputs; the order of the input does not matter. The
aggregate measures (interquartile mean, stratified bootstrap, performance profile, probability of improvement)
follow Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice".

A sample of one says nothing about spread: its interval has `low` and `high` NaN, so that no claim can be decided on
it. Non-finite values are refused; whoever reads results drops and counts them (`tables.aggregate` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marl_bench.report.resampling import (
    MIN_SEEDS,
    Floats,
    Interval,
    as_sample,
    bootstrap_distribution,
    check_settings,
    cluster_weights,
    percentile_interval,
)
from marl_bench.report.trends import slope_interval, spearman_interval

__all__ = [
    "MIN_SEEDS",
    "Interval",
    "Profile",
    "bootstrap_interval",
    "cliffs_delta",
    "cohens_d",
    "difference_interval",
    "difference_of_fractions_interval",
    "fraction_interval",
    "iqm",
    "normal_band",
    "normal_interval",
    "performance_profile",
    "probability_of_improvement",
    "slope_interval",
    "spearman_interval",
    "stratified_bootstrap_interval",
    "wilson_interval",
]

_NORMAL_95 = 1.96

Statistic = Callable[..., Any]


class Profile(NamedTuple):
    """A performance profile with pointwise intervals.

    Attributes:
      thresholds: [T] scores.
      fraction: [T] fraction of runs that score above each threshold.
      low: [T] lower end.
      high: [T] upper end.
      n: number of runs of the smallest task.
    """

    thresholds: Floats
    fraction: Floats
    low: Floats
    high: Floats
    n: int


def _tasks(scores: ArrayLike | Sequence[ArrayLike], name: str = "scores") -> list[Floats]:
    """One sorted sample a task, from [K, S], a ragged sequence of K samples, or one [S] sample."""
    rows: list[Any] = list(cast(Any, scores))
    if rows and all(np.ndim(row) == 0 for row in rows):
        return [as_sample(np.asarray(rows), name)]
    if not rows:
        raise ValueError(f"{name} is empty: at least one task with one run is needed")
    return [as_sample(row, f"{name}[{index}]") for index, row in enumerate(rows)]


# --- one sample -------------------------------------------------------------------------------------------------


def normal_band(values: ArrayLike) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """Mean over seeds with the band mean +- 1.96 s / sqrt(n), s the sample standard deviation (n - 1).

    Args:
      values: [S, ...] one row a seed; non-finite entries are left out pointwise.
    Returns:
      mean, low, high: [...]; `low` and `high` are NaN where fewer than two finite entries remain, and not clipped.
      n: [...] number of finite entries.
    Raises:
      ValueError: when there is no seed axis or it is empty.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError(f"values has shape {array.shape}: must have at least one seed on its first axis")
    finite = np.isfinite(array)
    n = finite.sum(axis=0)
    clean = np.where(finite, array, 0.0)
    mean = np.where(n > 0, clean.sum(axis=0) / np.maximum(n, 1), np.nan)
    squares = np.where(finite, (clean - np.where(n > 0, mean, 0.0)) ** 2, 0.0).sum(axis=0)
    half = np.where(n > 1, _NORMAL_95 * np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1)), np.nan)
    return mean, mean - half, mean + half, n


def normal_interval(values: ArrayLike) -> Interval:
    """Mean with the interval mean +- 1.96 s / sqrt(n), s the sample standard deviation.

    It is symmetric and may leave the range of the data, which matters for outcomes in two clusters; read it beside
    `fraction_interval`.

    Args:
      values: [n] finite.
    Raises:
      ValueError: for an empty or non-finite sample.
    """
    mean, low, high, n = normal_band(as_sample(values))
    return Interval(float(mean), float(low), float(high), int(n))


def iqm(values: ArrayLike, axis: int | None = None) -> Any:
    """Interquartile mean: the mean after dropping floor(n / 4) entries at each end (Agarwal et al. 2021).

    Args:
      values: [..., n].
      axis: axis to reduce; None for all entries together.
    Returns:
      float, or the array without `axis`.
    Raises:
      ValueError: when the axis is empty.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array.reshape(-1) if axis is None else np.moveaxis(array, axis, -1)
    size = array.shape[-1]
    if size == 0:
        raise ValueError("iqm of no values: at least one is needed")
    cut = size // 4
    # A full sort is not needed; the two cut positions are enough to split off the tails.
    middle = np.partition(array, sorted({cut, size - cut - 1}), axis=-1)[..., cut : size - cut]
    result = middle.mean(axis=-1)
    return float(result) if result.ndim == 0 else result


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = np.mean,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic.

    Args:
      values: [n] finite.
      statistic: called as `statistic(array, axis=-1)` on [R, n]; `np.mean`, `np.median`, `iqm`.
      resamples: number of bootstrap samples R.
      confidence: coverage in (0, 1).
      seed: of the generator.
    Raises:
      ValueError: for an empty or non-finite sample, or a setting out of range.
    """
    return stratified_bootstrap_interval(
        [as_sample(values)], statistic, resamples=resamples, confidence=confidence, seed=seed
    )


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a fraction (Wilson 1927); stays in [0, 1] and has width at 0 and at 1.

    Args:
      successes: number of successes, 0 ... n.
      n: number of trials, at least 1.
      confidence: coverage in (0, 1).
    Raises:
      ValueError: when a count is out of range.
    """
    check_settings(1, confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n}: need 0 <= successes <= n and n >= 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The exact limits at p = 0 and p = 1 are 0 and 1; rounding must not push them past the estimate.
    return Interval(p, float(min(max(centre - half, 0.0), p)), float(max(min(centre + half, 1.0), p)), int(n))


def fraction_interval(values: ArrayLike, *, below: float = 0.5, confidence: float = 0.95) -> Interval:
    """Fraction of runs below a cut-off (collapsed: cooperation < 0.5), with its Wilson interval.

    Args:
      values: [n] finite outcomes.
      below: cut-off in the unit of the values; a value equal to it does not count.
      confidence: coverage in (0, 1).
    Raises:
      ValueError: for an empty or non-finite sample.
    """
    sample = as_sample(values)
    return wilson_interval(int(np.count_nonzero(sample < below)), sample.size, confidence=confidence)


# --- two samples ------------------------------------------------------------------------------------------------


def difference_interval(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """mean(a) - mean(b) with a bootstrap interval; the two samples are resampled independently.

    Two samples without any spread give an interval of zero width; for outcomes that are all 0 or all 1 use
    `difference_of_fractions_interval`.

    Args:
      a: [n] finite.
      b: [m] finite.
      resamples: number of bootstrap samples.
      confidence: coverage in (0, 1).
      seed: of the generator.
    Raises:
      ValueError: for an empty or non-finite sample, or a setting out of range.
    """
    check_settings(resamples, confidence)
    left, right = as_sample(a, "a"), as_sample(b, "b")
    distribution = bootstrap_distribution(
        [left, right], lambda drawn: drawn[0].mean(axis=-1) - drawn[1].mean(axis=-1), resamples, seed
    )
    return percentile_interval(distribution, left.mean() - right.mean(), confidence, [left.size, right.size])


def difference_of_fractions_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int, *, confidence: float = 0.95
) -> Interval:
    """p_a - p_b with Newcombe's hybrid score interval (Newcombe 1998, method 10).

    Args:
      successes_a: successes of the first group; `n_a`: its size.
      n_a: size of the first group.
      successes_b: successes of the second group.
      n_b: size of the second group.
      confidence: coverage in (0, 1).
    Raises:
      ValueError: when a count is out of range.
    """
    a = wilson_interval(successes_a, n_a, confidence=confidence)
    b = wilson_interval(successes_b, n_b, confidence=confidence)
    difference = a.estimate - b.estimate
    down = np.hypot(a.estimate - a.low, b.high - b.estimate)
    up = np.hypot(a.high - a.estimate, b.estimate - b.low)
    return Interval(difference, float(difference - down), float(difference + up), min(a.n, b.n))


def cohens_d(a: ArrayLike, b: ArrayLike) -> float:
    """Standardised difference of means (mean(a) - mean(b)) / pooled sample standard deviation (Cohen 1988).

    Args:
      a: [n] finite.
      b: [m] finite, n + m >= 3.
    Returns:
      d; 0 when the means are equal, plus or minus infinity when they differ and neither sample has any spread.
    Raises:
      ValueError: for an empty or non-finite sample, or fewer than three values in all.
    """
    left, right = as_sample(a, "a"), as_sample(b, "b")
    freedom = left.size + right.size - 2
    if freedom < 1:
        raise ValueError("cohens_d needs at least three values in all; give one sample more than one value")
    squares = ((left - left.mean()) ** 2).sum() + ((right - right.mean()) ** 2).sum()
    difference = float(left.mean() - right.mean())
    if difference == 0.0:
        return 0.0
    spread = float(np.sqrt(squares / freedom))
    return difference / spread if spread > 0.0 else float(np.copysign(np.inf, difference))


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) - P(a < b) over all pairs, in [-1, 1] (Cliff 1993); needs no assumption about the distributions.

    Args:
      a: [n] finite.
      b: [m] finite.
    Raises:
      ValueError: for an empty or non-finite sample.
    """
    return float(np.mean(2.0 * _wins(as_sample(a, "a"), as_sample(b, "b")) - 1.0))


def _wins(a: Floats, b: Floats) -> Floats:
    """[n, m]: 1 where a > b, 1/2 at a tie, 0 otherwise."""
    return (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])


# --- several tasks ----------------------------------------------------------------------------------------------


def stratified_bootstrap_interval(
    scores: ArrayLike | Sequence[ArrayLike],
    statistic: Statistic = iqm,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Statistic of all runs of all tasks; seeds are resampled within each task (Agarwal et al. 2021, section 4).

    Args:
      scores: [K, S] task by seed, or K samples of unequal length; scores of one common scale.
      statistic: called as `statistic(array, axis=-1)` on the pooled runs.
      resamples: number of bootstrap samples.
      confidence: coverage in (0, 1).
      seed: of the generator.
    Raises:
      ValueError: for an empty or non-finite task, or a setting out of range.
    """
    check_settings(resamples, confidence)
    tasks = _tasks(scores)
    estimate = float(statistic(np.concatenate(tasks), axis=-1))
    distribution = bootstrap_distribution(
        tasks, lambda drawn: statistic(np.concatenate(drawn, axis=-1), axis=-1), resamples, seed
    )
    return percentile_interval(distribution, estimate, confidence, [task.size for task in tasks])


def probability_of_improvement(
    a: ArrayLike | Sequence[ArrayLike],
    b: ArrayLike | Sequence[ArrayLike],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over tasks of P(a > b) + P(a = b) / 2, with a stratified bootstrap interval.

    Source: Agarwal et al. 2021, section 4.

    Args:
      a: scores of the first method: [K, S], K samples, or [S] for one task.
      b: scores of the second, for the same K tasks.
      resamples: number of bootstrap samples.
      confidence: coverage in (0, 1).
      seed: of the generator.
    Raises:
      ValueError: when the numbers of tasks differ, a task is empty or non-finite, or a setting is out of range.
    """
    check_settings(resamples, confidence)
    left, right = _tasks(a, "a"), _tasks(b, "b")
    if len(left) != len(right):
        raise ValueError(f"a has {len(left)} tasks and b has {len(right)}: give the same tasks to both")
    generator = np.random.default_rng(seed)
    estimates, distributions = [], []
    for one, other in zip(left, right, strict=True):
        wins = _wins(one, other)
        estimates.append(wins.mean())
        weights_one = cluster_weights(generator, resamples, one.size) / one.size
        weights_other = cluster_weights(generator, resamples, other.size) / other.size
        distributions.append(((weights_one @ wins) * weights_other).sum(axis=-1))
    sizes = [task.size for task in (*left, *right)]
    return percentile_interval(np.mean(distributions, axis=0), float(np.mean(estimates)), confidence, sizes)


def performance_profile(
    scores: ArrayLike | Sequence[ArrayLike],
    thresholds: ArrayLike,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Profile:
    """Fraction of runs that score above each threshold, mean over tasks (Agarwal et al. 2021, section 4.2).

    Args:
      scores: [K, S], K samples, or [S] for one task.
      thresholds: [T] finite scores.
      resamples: number of bootstrap samples.
      confidence: coverage in (0, 1).
      seed: of the generator.
    Raises:
      ValueError: for an empty or non-finite task or threshold, or a setting out of range.
    """
    check_settings(resamples, confidence)
    tasks, levels = _tasks(scores), as_sample(thresholds, "thresholds")

    def fractions(samples: Sequence[Floats]) -> Floats:
        above: Iterator[Floats] = (np.mean([(s > level).mean(axis=-1) for s in samples], axis=0) for level in levels)
        return np.stack(list(above), axis=-1)

    estimate = fractions(tasks)
    distribution = bootstrap_distribution(tasks, fractions, resamples, seed)
    sizes = [task.size for task in tasks]
    rows = [percentile_interval(distribution[:, t], estimate[t], confidence, sizes) for t in range(levels.size)]
    low, high = np.array([row.low for row in rows]), np.array([row.high for row in rows])
    return Profile(levels, estimate, low, high, min(sizes))
