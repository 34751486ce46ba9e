"""Intervals and bootstrap samples: what `statistics`, `trends` and `boundary` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_SEEDS = 5
"""Fewest seeds for which an interval is shown unmarked."""

_CHUNK = 4_000_000
"""Entries drawn at once: bounds memory at about 64 MB for any sample size."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A point estimate with an interval.

    Attributes:
      estimate: value of the statistic on the data, in the unit of the data.
      low: lower end; NaN when it cannot be estimated.
      high: upper end; NaN when it cannot be estimated.
      n: number of independent units (seeds, cells, clusters); of several groups, the size of the smallest.
    """

    estimate: float
    low: float
    high: float
    n: int


def as_sample(values: ArrayLike, name: str = "values") -> Floats:
    """Sorted [n] float64 copy of a sample; sorting makes a seeded bootstrap independent of the order given.

    Raises:
      ValueError: when it is not one-dimensional, is empty, or holds a non-finite entry.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: must be one-dimensional with at least one entry")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(f"{name} holds {bad} non-finite entries of {array.size}: drop them and report their number")
    return np.sort(array)


def percentile_interval(distribution: Floats, estimate: float, confidence: float, sizes: Sequence[int]) -> Interval:
    """Percentile interval of a bootstrap distribution.

    It is widened where necessary to contain the estimate (own choice: an interval never contradicts its estimate).

    Args:
      distribution: [R] resampled values of the statistic.
      estimate: its value on the data.
      confidence: coverage in (0, 1).
      sizes: size of every independent sample; an interval needs at least two entries in each.
    """
    n = min(sizes)
    if n < 2:
        return Interval(float(estimate), float("nan"), float("nan"), n)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(distribution, [tail, 1.0 - tail])
    return Interval(float(estimate), float(min(low, estimate)), float(max(high, estimate)), n)


def check_settings(resamples: int, confidence: float) -> None:
    """Check the settings of an interval.

    Raises:
      ValueError: when `resamples` is below 1 or `confidence` is outside (0, 1).
    """
    if resamples < 1:
        raise ValueError(f"resamples={resamples!r}: must be at least 1")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence!r}: must lie between 0 and 1, exclusive")


def chunks(resamples: int, size: int) -> list[int]:
    """Numbers of resamples to do at once, so that each chunk of rows of `size` entries stays small."""
    rows = max(1, _CHUNK // max(1, size))
    full, rest = divmod(resamples, rows)
    return [rows] * full + ([rest] if rest else [])


def bootstrap_distribution(
    samples: Sequence[Floats], evaluate: Callable[[list[Floats]], Any], resamples: int, seed: int
) -> Floats:
    """Resample each sample with replacement, independently, and evaluate a statistic of all of them.

    Args:
      samples: K arrays [n_k].
      evaluate: maps K arrays [R, n_k] to [R] or [R, T].
      resamples: number of bootstrap samples R.
      seed: of the generator.
    Returns:
      [R] or [R, T] values of the statistic.
    """
    generator = np.random.default_rng(seed)
    values = []
    for rows in chunks(resamples, sum(sample.size for sample in samples)):
        drawn = [sample[generator.integers(0, sample.size, (rows, sample.size))] for sample in samples]
        values.append(np.asarray(evaluate(drawn), dtype=np.float64))
    return np.concatenate(values)


def cluster_weights(generator: np.random.Generator, rows: int, clusters: int) -> Floats:
    """[rows, clusters] how often each cluster is drawn in each bootstrap sample; every row sums to `clusters`."""
    drawn = generator.integers(0, clusters, (rows, clusters)) + clusters * np.arange(rows)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)
