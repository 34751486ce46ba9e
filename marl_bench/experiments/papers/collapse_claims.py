"""The claims of "How Exploration Breaks Cooperation" as functions from results to verdicts.

Claims X1-X11 are ours to number; their wording follows the abstract, a public summary and the published scripts. No absolute
number of the paper could be read, so every claim is a relation. A run collapsed when its cooperation is below 0.5; outcomes
are close to bimodal, so means and collapsed fractions are both judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from marl_bench.experiments.papers.collapse_boundary import SHARED_CUTOFF, boundaries, boundary_shift
from marl_bench.experiments.papers.collapse_features import silhouette_shift
from marl_bench.experiments.papers.collapse_grid import DILEMMA, Frame, exploration_intensity
from marl_bench.report.resampling import Interval
from marl_bench.report.statistics import slope_interval, spearman_interval
from marl_bench.report.verdicts import Verdict, judge, unmeasured

COLLAPSED = 0.5
"""A run below this cooperation rate counts as collapsed."""

HIGH_EXPLORATION = 0.3
"""B above which exploration counts as high (own choice: the four upper of the six studied temperatures)."""

_EQUAL = 0.1
"""Difference of mean cooperation that still counts as none, in every comparison of means (own choice)."""

Results = dict[str, Frame]


def with_intensity(frame: Frame) -> Frame:
    """Add the column `B` (exploration intensity)."""
    tau = frame["learner.initial_temperature"]
    return frame.assign(B=exploration_intensity(tau, frame["learner.final_temperature"], frame["learner.anneal_steps"]))


def at_dilemma(frame: Frame, strength: float = DILEMMA) -> Frame:
    """Rows of one dilemma strength."""
    return frame[np.isclose(frame["env.dilemma_strength"], strength)]


def seed_interval(differences: Frame) -> Interval:
    """Mean of one number a seed with its 95% t-interval: cells of one seed share network and random words, so seeds are the units."""
    from scipy import stats

    values = np.asarray(differences, np.float64)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(a: Frame, b: Frame, collapsed: bool = False) -> Interval:
    """Mean over seeds of cooperation (or of the collapsed fraction) of a minus b, within each seed that both have."""
    sides = [f.assign(value=f["cooperation_rate"] < COLLAPSED if collapsed else f["cooperation_rate"]) for f in (a, b)]
    means = [side.groupby("seed")["value"].mean() for side in sides]
    return seed_interval((means[0] - means[1]).dropna())


def _pair(
    claim: str,
    statement: str,
    a: Frame,
    b: Frame,
    names: tuple[str, str],
    expected: Any,
    source: str,
    note: str = "",
) -> list[Verdict]:
    """Verdicts on mean cooperation (a minus b) and on the collapsed fraction (the opposite sign)."""
    effect = f"cooperation, {names[0]} minus {names[1]}, paired by seed"
    opposite: Any = {"positive": "negative", "negative": "positive"}[expected]
    shared: dict[str, Any] = {"statement": statement, "source": source, "note": note}
    return [
        judge(
            paired_difference(a, b), claim=f"{claim} mean", effect=effect, expected=expected, practical=_EQUAL, **shared
        ),
        judge(
            paired_difference(a, b, collapsed=True),
            claim=f"{claim} collapsed",
            effect=f"collapsed fraction, {names[0]} minus {names[1]}, paired by seed",
            expected=opposite,
            **shared,
        ),
    ]


# --- X1 to X5: the shared system ---------------------------------------------------------------------


def falls_with_exploration_and_dilemma(results: Results, metrics: Results) -> list[Verdict]:
    """X1: cooperation falls with B and with Dr, and is worst where both are large."""
    del metrics
    frame = with_intensity(results["heat_map"])
    strengths, tau = frame["env.dilemma_strength"], frame["learner.initial_temperature"]
    verdicts = []
    for name, column in (("B", frame["B"]), ("Dr", strengths)):
        slope = slope_interval(column, frame["cooperation_rate"], clusters=frame["seed"])
        verdicts.append(
            judge(
                slope,
                claim=f"X1 {name}",
                statement=f"cooperation of the shared DQN falls as {name} grows",
                effect=f"slope of cooperation on {name} over the whole grid, seeds resampled",
                expected="negative",
                unit=f"cooperation per unit of {name}",
                source="abstract",
            )
        )
        low, high = frame[column == column.min()], frame[column == column.max()]
        verdicts.append(
            judge(
                paired_difference(high, low, collapsed=True),
                claim=f"X1 {name} collapsed",
                statement=f"more runs collapse as {name} grows",
                effect=f"collapsed fraction at the largest minus the smallest {name}, paired by seed",
                expected="positive",
                source="abstract",
            )
        )
    corner = (strengths == strengths.max()) & (tau == tau.max())
    verdicts += _pair(
        "X1 corner",
        "worst when B and Dr are both large",
        frame[corner],
        frame[~corner],
        ("largest B and Dr", "all other cells"),
        "negative",
        "abstract",
    )
    return verdicts


def boundary_moves_with_exploration(results: Results, metrics: Results) -> list[Verdict]:
    """X2: the collapse boundary Dr*(B) at cut-off 0.55 falls as B grows."""
    del metrics
    statement, source = "more exploration moves the collapse boundary to milder dilemmas", "abstract, published scripts"
    bounds = boundaries(results["heat_map"], SHARED_CUTOFF)
    interval = boundary_shift(results["heat_map"], SHARED_CUTOFF)
    note = (
        f"boundary {bounds['status'].iloc[0]} at the smallest B, {bounds['status'].iloc[-1]} at the largest; "
        "a censored boundary counts at the end of the grid"
    )
    return [
        judge(
            interval,
            claim="X2",
            statement=statement,
            effect="Dr* at the largest B minus at the smallest B, cut-off 0.55, seeds resampled jointly",
            expected="negative",
            unit="Dr",
            note=note,
            source=source,
        )
    ]


def collapse_is_stable(results: Results, metrics: Results) -> list[Verdict]:
    """X3: a collapsed run sits in a stable low-cooperation state; it does not diverge."""
    statement, source = "the collapsed state is a stable low-cooperation solution, not a diverging learner", "abstract"
    frame, curves = results["heat_map"], metrics["heat_map"]
    collapsed = frame.loc[frame["cooperation_rate"] < COLLAPSED, "unit"]
    if len(collapsed) < 2:
        return [unmeasured("X3", statement, note="fewer than two collapsed runs", source=source)]
    curves = curves[curves["unit"].isin(collapsed)]
    last = curves["env_steps"].max()
    late = curves[curves["env_steps"] > 0.9 * last].groupby("unit").mean()
    earlier = curves[(curves["env_steps"] > 0.8 * last) & (curves["env_steps"] <= 0.9 * last)].groupby("unit").mean()
    drift = late["cooperation_rate"] - earlier["cooperation_rate"]
    interval = seed_interval(drift.groupby(frame.set_index("unit")["seed"]).mean())
    largest = late["loss"].max()
    return [
        judge(
            interval,
            claim="X3",
            statement=statement,
            expected="equivalent",
            practical=_EQUAL,
            effect="collapsed runs: cooperation in the last tenth of training minus in the tenth before, mean of each seed",
            note=f"largest late loss of a collapsed run {largest:.3g}, all finite; collapsed runs keep drifting down with the temperature",
            source=source,
        )
    ]


def gap_falls_with_exploration(results: Results, metrics: Results) -> list[Verdict]:
    """X4: at Dr = 0.25 the action-value gap falls as B grows (the claim says monotonically, towards zero)."""
    del metrics
    frame = with_intensity(at_dilemma(results["heat_map"]))
    rank = spearman_interval(frame["B"], frame["q_gap"], clusters=frame["seed"])
    note = "a trend is tested, not monotony or the limit zero; the absolute gap mixes cooperating runs (large positive Q(C) - Q(D)) and collapsed ones (small negative); see the signed gap"
    return [
        judge(
            rank,
            claim="X4",
            statement="the Q-gap at Dr = 0.25 falls as B grows",
            expected="negative",
            effect="rank correlation of B and the Q-gap, seeds resampled",
            note=note,
            source="public summary",
        )
    ]


def features_entangle(silhouettes: Frame | None) -> list[Verdict]:
    """X5: cooperative and defective behaviour become entangled in the hidden features as B grows."""
    statement, source = "hidden features of cooperation and defection become entangled as B grows", "abstract"
    if silhouettes is None:
        return [unmeasured("X5", statement, note="checkpoints of the heat map are not at hand", source=source)]
    interval = silhouette_shift(silhouettes)
    note = "many points coincide (32 possible inputs), which inflates silhouettes"
    return [
        judge(
            interval,
            claim="X5",
            statement=statement,
            effect="silhouette at the largest B minus at the smallest B (Dr 0.25), jackknife over seeds",
            expected="negative",
            note=note,
            source=source,
        )
    ]


# --- X6 to X11: comparisons -----------------------------------------------------------------------------


def _matched(frame: Frame, other: Frame, *, above: float = -np.inf) -> tuple[Frame, Frame]:
    """Rows of both at Dr = 0.25, at the temperatures and seeds that both have, with B above a bound."""
    frames = [with_intensity(at_dilemma(f)) for f in (frame, other)]
    keys = ["learner.initial_temperature", "seed"]
    common = set(map(tuple, frames[0][keys].to_numpy())) & set(map(tuple, frames[1][keys].to_numpy()))
    kept = [
        f[np.array([tuple(row) in common for row in f[keys].to_numpy()]) & (f["B"] > above).to_numpy()] for f in frames
    ]
    return kept[0], kept[1]


def grouping_helps(results: Results, metrics: Results) -> list[Verdict]:
    """X6: grouped learning alleviates the collapse."""
    del metrics
    verdicts = []
    for name, label in (
        ("groups_10", "10 groups"),
        ("groups_100_long", "100 groups, 1,000 steps"),
        ("groups_100_short", "100 groups, 100 steps"),
    ):
        if name in results:
            grouped, shared = _matched(results[name], results["heat_map"], above=HIGH_EXPLORATION)
            verdicts += _pair(
                f"X6 {label}",
                "grouped learning alleviates the collapse at high exploration",
                grouped,
                shared,
                (label, "shared"),
                "positive",
                "abstract",
                "grouped runs do G times the gradient work, as in the original",
            )
    return verdicts


def augmentation_helps(results: Results, metrics: Results) -> list[Verdict]:
    """X7: telling agents the temperature or the progress delays the collapse."""
    del metrics
    frame = with_intensity(results["augmentation"])
    plain, told = frame[frame["env.observe"] == "actions"], frame[frame["env.observe"] != "actions"]
    note = "the temperature feature equals 1 - progress exactly, so the modes carry the same information"
    return _pair(
        "X7",
        "temperature or progress in the observation delays the collapse",
        told,
        plain,
        ("augmented", "plain"),
        "positive",
        "abstract",
        note,
    )


def randomness_hurts(results: Results, metrics: Results) -> list[Verdict]:
    """X8: spatial structure supports cooperation; random graphs make the collapse worse."""
    del metrics
    frame = results["topology"]
    mixed, lattice = _matched(frame[frame["env.topology"] == "random"], results["heat_map"])
    return _pair(
        "X8",
        "globally mixed (random 4-regular) graphs cooperate less than the lattice",
        mixed,
        lattice,
        ("random graph", "lattice"),
        "negative",
        "abstract, public summary",
    )


def size_does_not_matter(results: Results, metrics: Results) -> list[Verdict]:
    """X9: lattices of side 30, 40 and 50 give nearly the same curve."""
    del metrics
    plain = results["augmentation"][results["augmentation"]["env.observe"] == "actions"]
    verdicts = []
    for side, frame in ((40, results.get("lattice_40")), (50, plain)):
        if frame is None:
            continue
        large, small = _matched(frame, results["heat_map"])
        verdicts.append(
            judge(
                paired_difference(large, small),
                claim=f"X9 side {side}",
                statement="lattice size does not change the curve",
                effect=f"cooperation, side {side} minus side 30, paired by seed",
                expected="equivalent",
                practical=_EQUAL,
                source="public summary",
                note="settings unverified",
            )
        )
    return verdicts


_CLAIMS: tuple[tuple[str, str, tuple[str, ...], Callable[[Results, Results], list[Verdict]]], ...] = (
    ("X1", "cooperation falls with B and Dr", ("heat_map",), falls_with_exploration_and_dilemma),
    ("X2", "the boundary Dr*(B) moves with B", ("heat_map",), boundary_moves_with_exploration),
    ("X3", "the collapsed state is stable", ("heat_map",), collapse_is_stable),
    ("X4", "the Q-gap falls with B", ("heat_map",), gap_falls_with_exploration),
    ("X6", "grouped learning alleviates the collapse", ("heat_map", "groups_10"), grouping_helps),
    ("X7", "augmented observations delay the collapse", ("augmentation",), augmentation_helps),
    ("X8", "random graphs make the collapse worse", ("heat_map", "topology"), randomness_hurts),
    ("X9", "lattice size does not matter", ("heat_map", "augmentation"), size_does_not_matter),
)


def all_verdicts(results: Results, metrics: Results, silhouettes: Frame | None) -> list[Verdict]:
    """Verdicts on X1-X11; a claim whose runs are not in `results` is reported as not measured."""
    verdicts: list[Verdict] = []
    for claim, statement, needed, judge_claim in _CLAIMS:
        if claim == "X6":
            verdicts += features_entangle(silhouettes)
        if all(name in results for name in needed):
            verdicts += judge_claim(results, metrics)
        else:
            verdicts.append(unmeasured(claim, statement, note="its runs are not part of this scale"))
    verdicts.append(
        unmeasured(
            "X10",
            "hidden size, buffer, discount, loss and optimiser do not remove the decline",
            note="the original's settings are not readable",
            source="secondary report",
        )
    )
    verdicts.append(
        unmeasured(
            "X11",
            "the collapse disappears when nothing is shared",
            source="listing abstract",
            note="no such experiment is published; the nearest, 100 groups of 9, is under X6",
        )
    )
    return verdicts
