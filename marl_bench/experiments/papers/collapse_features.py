"""Hidden-representation entanglement (experiment E5): silhouettes of the trained networks' hidden activations.

Protocol of the paper's published scripts: per run, 150 observations drawn without replacement from all evaluation
observations; their hidden activations (after ReLU) pooled over all runs, z-scored per unit; for each B two clusters by
k-means with 10 restarts, and the silhouette score. With 32 possible inputs many points coincide, which inflates the
score: compare only across B.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from marl_bench.experiments.papers.collapse_grid import Frame
from marl_bench.report.resampling import Interval
from marl_bench.runtime import checkpoint
from marl_bench.runtime.run_directory import RunDirectory

_SAMPLES = 150
_RESTARTS = 10
_TAU = "learner.initial_temperature"


def sample_visits(visits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[150] codes drawn without replacement from evaluation observations with the given counts [K]."""
    counts = np.asarray(visits, np.int64)
    drawn = rng.multivariate_hypergeometric(counts, min(_SAMPLES, int(counts.sum())))
    return np.repeat(np.arange(counts.size), drawn)


def hidden_activations(first: np.ndarray, bias: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """[n, H] activations of a one-hidden-layer network (weights [O, H], bias [H]) at codes [n]: bit j is input j."""
    views = (codes[:, None] >> np.arange(first.shape[0])) & 1
    return np.maximum(views @ first + bias, 0.0)


def silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of two clusters (Rousseeuw 1987), in [-1, 1]; 0 where one cluster is empty."""
    if labels.min() == labels.max():
        return 0.0
    squared = (points**2).sum(1)
    distance = np.sqrt(np.maximum(squared[:, None] + squared[None] - 2.0 * points @ points.T, 0.0))
    scores = np.zeros(len(points))
    for own in (0, 1):
        mine, other = labels == own, labels != own
        size = int(mine.sum())
        within = distance[np.ix_(mine, mine)].sum(1) / max(size - 1, 1)
        between = distance[np.ix_(mine, other)].mean(1)
        largest = np.maximum(within, between)
        scores[mine] = np.where((largest > 0) & (size > 1), (between - within) / np.where(largest > 0, largest, 1), 0.0)
    return float(scores.mean())


def two_cluster_silhouette(points: np.ndarray, seed: int) -> float:
    """Silhouette of the best of 10 k-means runs with k = 2 (smallest inertia)."""
    from scipy.cluster.vq import kmeans2

    best, found = np.inf, 0.0
    for restart in range(_RESTARTS):
        centres, labels = kmeans2(points, 2, minit="++", rng=seed + restart, missing="warn")
        inertia = float(((points - centres[labels]) ** 2).sum())
        if inertia < best:
            best, found = inertia, silhouette(points, labels)
    return found


def load_features(runs_dir: Path, results: Frame) -> list[np.ndarray]:
    """[150, H] activations of each row of `results` (one group, 5 binary inputs), from the checkpoints below `runs_dir`."""
    cells: dict[str, Frame] = {}
    packs: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    features = []
    for _, row in results.iterrows():
        folder = RunDirectory(runs_dir / row["run"])
        if row["run"] not in cells:
            cells[row["run"]] = folder.read_cells().set_index("cell")
        place = cells[row["run"]].loc[row["cell"]]
        pack = (row["run"], int(place["pack"]))
        if pack not in packs:
            packs[pack] = checkpoint.restore_raw(folder.checkpoint_directory(pack[1]))[0]
        weights, bias = (packs[pack][f".params['network'][0]['{name}']"][int(place["row"]), 0] for name in ("w", "b"))
        codes = sample_visits(np.asarray(row["visits"]), np.random.default_rng(int(row["seed"])))
        features.append(hidden_activations(weights, bias, codes))
    return features


def entanglement(runs_dir: Path, results: Frame) -> Frame | None:
    """Silhouette by initial temperature with a jackknife interval over seeds.

    Args:
      runs_dir: folder of the run directories.
      results: the rows to analyse, with `run` and `cell`.
    Returns:
      Columns `learner.initial_temperature`, `silhouette`, `low`, `high`, `n` (seeds), `left_out`
      (estimates without each seed); None where no checkpoints are kept
      (a copied folder of results).
    """
    if not all((runs_dir / run / "checkpoints").is_dir() for run in results["run"].unique()):
        return None
    features = load_features(runs_dir, results)
    pooled = np.concatenate(features)
    mean, scale = pooled.mean(0), pooled.std(0) + 1e-6
    scaled = [(points - mean) / scale for points in features]
    temperatures, seeds = (results[name].to_numpy() for name in (_TAU, "seed"))
    rows = []
    for temperature in np.unique(temperatures):
        members = np.flatnonzero(temperatures == temperature)
        left_out = [_score(scaled, members[seeds[members] != seed]) for seed in np.unique(seeds)]
        interval = _jackknife(_score(scaled, members), np.array(left_out))
        rows.append((temperature, interval.estimate, interval.low, interval.high, interval.n, left_out))
    return pd.DataFrame(rows, columns=[_TAU, "silhouette", "low", "high", "n", "left_out"])


def silhouette_shift(silhouettes: Frame) -> Interval:
    """Silhouette at the largest minus at the smallest temperature, jackknife over the seeds that both share."""
    low, high = silhouettes.iloc[0], silhouettes.iloc[-1]
    left_out = np.asarray(high["left_out"]) - np.asarray(low["left_out"])
    return _jackknife(float(high["silhouette"] - low["silhouette"]), left_out)


def _score(scaled: list[np.ndarray], members: np.ndarray) -> float:
    return two_cluster_silhouette(np.concatenate([scaled[i] for i in members]), 0) if len(members) else float("nan")


def _jackknife(estimate: float, left_out: np.ndarray) -> Interval:
    """95% t-interval from leave-one-seed-out estimates [S] (Tukey 1958); open with fewer than two seeds."""
    from scipy import stats

    n = len(left_out)
    if n < 2 or not np.isfinite(left_out).all():
        return Interval(estimate, float("nan"), float("nan"), n)
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, n - 1) * error)
    return Interval(estimate, estimate - half, estimate + half, n)
