"""The collapse boundary Dr*(B) (experiment E2) with intervals that respect shared seeds.

Cells of one seed share initial network and random words, so a resample draws seeds once and applies them to every
dilemma strength and every B.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from marl_bench.experiments.papers.collapse_grid import Frame, exploration_intensity
from marl_bench.report.boundary import collapse_boundary
from marl_bench.report.resampling import Interval

SHARED_CUTOFF = 0.55
"""Cut-off of the shared system's boundary in the paper's scripts."""

GROUPED_CUTOFF = 0.15
"""Cut-off of the grouped system's boundary there; not comparable with the shared one."""

_RESAMPLES = 1000
_TAU, _STRENGTH = "learner.initial_temperature", "env.dilemma_strength"


def _draws(frame: Frame, tau: float, cutoff: float, picks: np.ndarray) -> np.ndarray:
    """[resamples] boundaries of one initial temperature; `picks` [resamples, S] are seed positions."""
    wide = frame[frame[_TAU] == tau].pivot(index=_STRENGTH, columns="seed", values="cooperation_rate")
    means = wide.to_numpy()[:, picks].mean(axis=2)  # [D, resamples]
    return np.array([collapse_boundary(wide.index.to_numpy(), column, cutoff).value for column in means.T])


def _picks(frame: Frame) -> np.ndarray:
    seeds = frame["seed"].nunique()
    resampled = np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, seeds))
    return np.concatenate([np.arange(seeds)[None], resampled])  # the first is the data itself


def _interval(draws: np.ndarray, seeds: int) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(draws[0]), min(float(low), float(draws[0])), max(float(high), float(draws[0])), seeds)


def boundaries(frame: Frame, cutoff: float) -> Frame:
    """Boundary of each initial temperature.

    Args:
      frame: results with every seed at every strength and temperature.
      cutoff: level of mean cooperation that defines the boundary.
    Returns:
      Columns `learner.initial_temperature`, `B`, `boundary`, `status`, `low`, `high`, `n` (seeds). A censored boundary, and a
      censored resample, counts at the end of the grid.
    """
    rows, picks, seeds = [], _picks(frame), frame["seed"].nunique()
    for tau in sorted(frame[_TAU].unique()):
        means = frame[frame[_TAU] == tau].groupby(_STRENGTH)["cooperation_rate"].mean()
        status = collapse_boundary(means.index.to_numpy(), means.to_numpy(), cutoff).status
        interval = _interval(_draws(frame, tau, cutoff, picks), seeds)
        rows.append(
            (tau, float(exploration_intensity(tau)), interval.estimate, status, interval.low, interval.high, seeds)
        )
    return pd.DataFrame(rows, columns=[_TAU, "B", "boundary", "status", "low", "high", "n"])


def boundary_shift(frame: Frame, cutoff: float) -> Interval:
    """Boundary at the largest B minus at the smallest B, seeds resampled jointly."""
    picks, taus = _picks(frame), frame[_TAU]
    low, high = (_draws(frame, tau, cutoff, picks) for tau in (taus.min(), taus.max()))
    return _interval(high - low, frame["seed"].nunique())
