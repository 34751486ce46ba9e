"""Tables and figures of "How Exploration Breaks Cooperation", from stored results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from marl_bench.experiments.papers.collapse_boundary import GROUPED_CUTOFF, SHARED_CUTOFF, boundaries
from marl_bench.experiments.papers.collapse_claims import (
    Results,
    at_dilemma,
    with_intensity,
)
from marl_bench.experiments.papers.collapse_grid import Frame
from marl_bench.report.figures import (
    BoundaryCurve,
    Curve,
    Outcomes,
    Runs,
    boundary_plot,
    curves_with_bands,
    heat_map,
    save_figure,
    strip_plot,
    training_curves,
)
from marl_bench.report.resampling import Interval
from marl_bench.report.statistics import normal_interval
from marl_bench.report.tables import Column, Table, aggregate, aggregate_table

_B = "Exploration intensity B (payoff)"
_COOPERATION = "Cooperation rate (mean over seeds, 95% band)"
_TAU, _STRENGTH, _OUTCOME = "learner.initial_temperature", "env.dilemma_strength", "cooperation_rate"


def tables(results: Results, silhouettes: Frame | None) -> dict[str, Table]:
    """Every table of the study whose runs are in `results`, by file name."""
    found = {}
    for name, frame in results.items():
        frame = with_intensity(frame)
        swept = [
            c for c in (_STRENGTH, "env.topology", "env.observe", "learner.buffer_steps") if frame[c].nunique() > 1
        ]
        keys = [*swept, _TAU, "B"]
        found[name] = aggregate_table(frame, keys, title=f"Cooperation rate: {name.replace('_', ' ')}")
    if "heat_map" in results:
        found["action_values"] = _action_values(with_intensity(at_dilemma(results["heat_map"])))
        found["boundary"] = _boundary_table(_all_boundaries(results))
    if silhouettes is not None:
        rows = tuple(
            (row[_TAU], Interval(row["silhouette"], row["low"], row["high"], int(row["n"])), int(row["n"]))
            for _, row in silhouettes.iterrows()
        )
        columns = (Column("tau_0"), Column("silhouette", format=".3f"), Column("seeds", format="d"))
        found["silhouettes"] = Table("Silhouette of two clusters of hidden features (Dr 0.25)", columns, rows)
    return found


def _action_values(frame: Frame) -> Table:
    rows = []
    for (tau, intensity), group in frame.groupby([_TAU, "B"]):
        values = [normal_interval(group[name]) for name in ("q_gap", "q_signed_gap", "q_level")]
        rows.append((tau, intensity, *values, len(group)))
    columns = (
        Column("tau_0"),
        Column("B", format=".3f"),
        Column("Q-gap", "payoff", ".3g"),
        Column("Q(C) - Q(D)", "payoff", ".3g"),
        Column("value level", "payoff", ".3g"),
        Column("seeds", format="d"),
    )
    return Table("Action values at the observations acted on (Dr 0.25)", columns, tuple(rows))


def _all_boundaries(results: Results) -> list[tuple[str, float, Frame]]:
    """(system, cut-off, boundaries) at both cut-offs of every system that was swept over Dr."""
    systems = {"shared": results["heat_map"]}
    if "groups_10" in results and results["groups_10"][_STRENGTH].nunique() > 1:
        systems["10 groups"] = results["groups_10"]
    cutoffs = (SHARED_CUTOFF, GROUPED_CUTOFF)
    return [(name, cutoff, boundaries(frame, cutoff)) for name, frame in systems.items() for cutoff in cutoffs]


def _boundary_table(found: list[tuple[str, float, Frame]]) -> Table:
    columns = (
        Column("system"),
        Column("cut-off", format=".2f"),
        Column("B", format=".3f"),
        Column("Dr*", format=".3f"),
        Column("status"),
        Column("seeds", format="d"),
    )
    rows = tuple(
        (
            name,
            cutoff,
            row["B"],
            Interval(row["boundary"], row["low"], row["high"], int(row["n"])),
            row["status"],
            int(row["n"]),
        )
        for name, cutoff, bounds in found
        for _, row in bounds.iterrows()
    )
    note = "A censored boundary lies beyond the grid. The paper draws the shared system at 0.55 and ten groups at 0.15."
    return Table("Collapse boundaries", columns, rows, notes=(note,))


def figures(results: Results, metrics: Results, silhouettes: Frame | None, folder: Path) -> list[Path]:
    """Draw every figure whose runs are in `results` into `folder` (SVG and PNG); returns the PNG files, heat map first."""
    drawn = {}
    if "heat_map" in results:
        frame = with_intensity(results["heat_map"])
        drawn["heat_map"] = _heat_map(frame)
        drawn["boundary"] = _boundary(results)
        row = at_dilemma(frame)
        drawn["action_values"] = curves_with_bands(
            [_curve("|Q(C) - Q(D)|", row, "q_gap"), _curve("Q(C) - Q(D)", row, "q_signed_gap")],
            title="Action-value gap at Dr = 0.25",
            x_title=_B,
            y_title="Gap (payoff; mean over seeds, 95% band)",
        )
        drawn["seeds"] = strip_plot(
            [Outcomes(f"{b:.2f}", group[_OUTCOME].to_numpy()) for b, group in row.groupby("B")],
            title="Every seed at Dr = 0.25",
            x_title=_B,
            y_title="Cooperation rate",
        )
        drawn["training"] = _training(row, metrics["heat_map"])
    shared = at_dilemma(results["heat_map"]) if "heat_map" in results else None
    comparisons = _comparisons(results, shared)
    for name, (title, series) in comparisons.items():
        drawn[name] = curves_with_bands(series, title=title, x_title=_B, y_title=_COOPERATION, y_limits=(-0.02, 1.02))
    if silhouettes is not None:
        frame = with_intensity(silhouettes.assign(**{"learner.final_temperature": 0.1, "learner.anneal_steps": 95_000}))
        curve = Curve("shared DQN", frame["B"], frame["silhouette"], frame["low"], frame["high"])
        drawn["silhouettes"] = curves_with_bands(
            [curve],
            title="Separation of hidden features at Dr = 0.25",
            x_title=_B,
            y_title="Silhouette (95% jackknife over seeds)",
        )
    return [save_figure(figure, folder, name)[1] for name, figure in drawn.items()]


def _heat_map(frame: Frame) -> Figure:
    summary = aggregate(frame, [_STRENGTH, "B"])
    mean = summary.pivot(index=_STRENGTH, columns="B", values="mean")
    collapsed = summary.pivot(index=_STRENGTH, columns="B", values="collapsed")
    seeds = int(summary["n"].to_numpy().min())
    return heat_map(
        [f"{b:.2f}" for b in mean.columns],
        [f"{s:.2f}" for s in mean.index],
        mean.to_numpy(),
        second=collapsed.to_numpy(),
        title=f"Shared-policy DQN, {seeds} seeds a cell",
        x_title=_B,
        y_title=r"Dilemma strength $D_r$ (payoff)",
        value_title="Mean cooperation rate",
        second_title="Fraction of collapsed seeds",
    )


def _boundary(results: Results) -> Figure:
    curves = [
        BoundaryCurve(f"{name}, cut-off {cutoff}", f["B"], f["boundary"], list(f["status"]), f["low"], f["high"])
        for name, cutoff, f in _all_boundaries(results)
    ]
    strengths = results["heat_map"][_STRENGTH].to_numpy()
    limits = (float(strengths.min()), float(strengths.max()))
    return boundary_plot(curves, title="Collapse boundary", x_title=_B, y_limits=limits)


def _curve(label: str, frame: Frame, value: str = _OUTCOME) -> Curve:
    """Mean and 95% band of `value` over seeds at each B."""
    groups = [(b, group[value].to_numpy()) for b, group in with_intensity(frame).groupby("B")]
    intervals = [normal_interval(values) for _, values in groups]
    return Curve(
        label,
        [b for b, _ in groups],
        [i.estimate for i in intervals],
        [i.low for i in intervals],
        [i.high for i in intervals],
        [values for _, values in groups],
    )


def _comparisons(results: Results, shared: Frame | None) -> dict[str, tuple[str, list[Curve]]]:
    """Titles and series of the figures that compare conditions at Dr = 0.25."""
    found: dict[str, tuple[str, list[Curve]]] = {}

    def base(label: str, other: Frame) -> list[Curve]:
        """The shared lattice system on the seeds of `other`, so that both sides rest on the same runs."""
        return [] if shared is None else [_curve(label, shared[shared["seed"].isin(other["seed"])])]

    grouped = {
        "groups_10": "10 groups",
        "groups_100_long": "100 groups, 1,000 steps",
        "groups_100_short": "100 groups, 100 steps",
    }
    series = [
        (results[name], _curve(label, at_dilemma(results[name]))) for name, label in grouped.items() if name in results
    ]
    if series:
        curves = [curve for _, curve in series]
        found["groups"] = ("Fewer agents a network (Dr = 0.25)", base("shared", series[0][0]) + curves)
    if "topology" in results:
        frame = results["topology"]
        kinds = [_curve(kind, group) for kind, group in frame.groupby("env.topology")]
        found["topology"] = ("Graphs of degree four (Dr = 0.25)", base("lattice", frame) + kinds)
    if "augmentation" in results:
        modes = [_curve(mode, group) for mode, group in results["augmentation"].groupby("env.observe")]
        found["augmentation"] = ("What agents are told (Dr = 0.25, side 50)", modes)
    return found


def _training(row: Frame, curves: Frame) -> Figure:
    """Cooperation over training at the smallest, a middle and the largest B."""
    levels = sorted(row["B"].unique())
    runs = []
    for b in dict.fromkeys((levels[0], levels[len(levels) // 2], levels[-1])):
        units = row.loc[np.isclose(row["B"], b), "unit"]
        wide = curves[curves["unit"].isin(units)].pivot(index="unit", columns="env_steps", values=_OUTCOME)
        runs.append(Runs(f"B = {b:.2f}", wide.columns.to_numpy(), wide.to_numpy()))
    return training_curves(runs, title="Training at Dr = 0.25", y_title="Cooperation rate", y_limits=(-0.02, 1.02))
