"""Figures of a report, drawn with matplotlib's object interface on the Agg back end; no display, no global state.

Equal inputs give equal files. Colours are Okabe & Ito's palette (safe for colour-blind readers) and every series
also has its own marker and line style. Series, condition and tick labels are shown literally; titles and axis titles
may hold mathtext between dollar signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike

from marl_bench.report.boundary import Status
from marl_bench.report.canvas import (
    PALETTE,
    STYLE,
    as_series,
    height_for,
    label_axes,
    line_style,
    literal,
    new_figure,
    pad_limits,
    place_legend,
    save_figure,
    set_title,
)
from marl_bench.report.heatmap import heat_map
from marl_bench.report.statistics import MIN_SEEDS, normal_band

__all__ = [
    "BoundaryCurve",
    "Curve",
    "Outcomes",
    "Runs",
    "boundary_plot",
    "curves_with_bands",
    "heat_map",
    "save_figure",
    "strip_plot",
    "training_curves",
]


class Curve(NamedTuple):
    """One line with a band.

    Attributes:
      label: name in the legend.
      x: [T] positions.
      mean: [T] centre.
      low: [T] lower edge of the band; NaN where there is none.
      high: [T] upper edge.
      dots: for each position the outcomes of single seeds ([T, S] or T samples), or None.
    """

    label: str
    x: ArrayLike
    mean: ArrayLike
    low: ArrayLike
    high: ArrayLike
    dots: Sequence[ArrayLike] | None = None


class BoundaryCurve(NamedTuple):
    """One system's collapse boundary.

    Attributes:
      label: name in the legend, with the cut-off used.
      x: [T] exploration breadth B.
      value: [T] boundary Dr*.
      status: [T] "interior", "right-censored" or "left-censored".
      low: [T] lower end of the interval, or None.
      high: [T] upper end, or None.
    """

    label: str
    x: ArrayLike
    value: ArrayLike
    status: Sequence[Status]
    low: ArrayLike | None = None
    high: ArrayLike | None = None


class Runs(NamedTuple):
    """Training curves of the seeds of one condition.

    Attributes:
      label: name in the legend.
      steps: [T] environment steps.
      values: [S, T] metric, one row a seed; NaN where it was not logged.
    """

    label: str
    steps: ArrayLike
    values: ArrayLike


class Outcomes(NamedTuple):
    """Outcomes of the seeds of one condition.

    Attributes:
      label: name under the axis.
      values: [S] one outcome a seed.
    """

    label: str
    values: ArrayLike


# --- lines ------------------------------------------------------------------------------------------------------


def curves_with_bands(
    series: Sequence[Curve],
    *,
    title: str,
    x_title: str,
    y_title: str,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw means with bands, and single seeds as faint dots where given.

    Args:
      series: the lines.
      title: of the figure.
      x_title: name and unit.
      y_title: name and unit; say there what the band is.
      y_limits: range of the y axis; None for that of the data.
    Raises:
      ValueError: when the columns of a series differ in length.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(7.6, height_for([curve.label for curve in series]))
        handles = []
        for index, curve in enumerate(series):
            x, mean, low, high = as_series(x=curve.x, mean=curve.mean, low=curve.low, high=curve.high)
            style = line_style(index)
            axes.fill_between(x, low, high, color=style["color"], alpha=min(0.16, 0.5 / len(series)), linewidth=0)
            handles += axes.plot(x, mean, markersize=5, linewidth=1.8, label=literal(curve.label), **style)
            if curve.dots is not None:
                shift = 0.008 * np.ptp(x) * (index - (len(series) - 1) / 2)
                _dots(axes, x + shift, curve.dots, style["color"], curve.label)
        set_title(figure, title)
        label_axes(axes, x_title, y_title)
        axes.grid(color="#e6e6e6")
        pad_limits(axes, y_limits)
        place_legend(axes, handles)
    return figure


def _dots(axes: Axes, x: np.ndarray, dots: Sequence[ArrayLike], colour: str, label: str) -> None:
    if len(dots) != x.size:
        raise ValueError(f"series {label!r} has {len(dots)} samples of dots for {x.size} positions")
    for position, sample in zip(x, dots, strict=True):
        points = np.asarray(sample, dtype=np.float64).reshape(-1)
        axes.plot(np.full(points.size, position), points, ".", color=colour, alpha=0.5, markersize=5, zorder=1)


def training_curves(
    runs: Sequence[Runs],
    *,
    title: str,
    y_title: str,
    x_title: str = "Environment steps",
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw the seed mean of each condition over training with its 95% band, and every seed as a thin line.

    Args:
      runs: the conditions.
      title: of the figure.
      y_title: name and unit of the metric.
      x_title: name of the step counter.
      y_limits: range of the y axis; None for that of the data.
    Raises:
      ValueError: when values [S, T] and steps [T] do not fit.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(7.6, height_for([run.label for run in runs], extra=len(runs)))
        handles = []
        for index, run in enumerate(runs):
            steps, values = np.asarray(run.steps, dtype=np.float64), np.asarray(run.values, dtype=np.float64)
            if values.ndim != 2 or steps.shape != values.shape[1:] or values.shape[0] == 0:
                raise ValueError(f"run {run.label!r}: values have shape {values.shape} for steps of {steps.shape}")
            style: dict[str, Any] = line_style(index) | {"marker": ""}
            axes.plot(steps, values.T, color=style["color"], alpha=0.4, linewidth=0.8)
            mean, low, high, _ = normal_band(values)
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.16, linewidth=0)
            label = literal(f"{run.label} ({_count(values.shape[0])})")
            handles += axes.plot(steps, mean, linewidth=2.0, label=label, **style)
        set_title(figure, title)
        label_axes(axes, x_title, y_title)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(color="#e6e6e6")
        pad_limits(axes, y_limits)
        place_legend(axes, handles)
    return figure


def _count(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}{'†' if seeds < MIN_SEEDS else ''}"


def boundary_plot(
    curves: Sequence[BoundaryCurve],
    *,
    title: str,
    x_title: str = "Exploration breadth B",
    y_title: str = r"Collapse boundary $D_r^*$",
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw collapse boundaries; a censored point is an open triangle that points to where the boundary lies.

    Args:
      curves: one a system.
      title: of the figure.
      x_title: name and unit.
      y_title: name and unit.
      y_limits: range of the grid of Dr; None for that of the data.
    Raises:
      ValueError: when the columns of a curve differ in length, or a status is unknown.
    """
    shapes = {"interior": "o", "right-censored": "^", "left-censored": "v"}
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(7.6, height_for([curve.label for curve in curves], extra=5))
        handles: list[Any] = []
        for index, curve in enumerate(curves):
            x, value = as_series(x=curve.x, value=curve.value)
            status = list(curve.status)
            if len(status) != x.size or not set(status) <= set(shapes):
                raise ValueError(f"curve {curve.label!r}: status must hold {x.size} entries out of {', '.join(shapes)}")
            style: dict[str, Any] = line_style(index) | {"marker": ""}
            if curve.low is not None and curve.high is not None:
                low, high, _ = as_series(low=curve.low, high=curve.high, x=x)
                axes.fill_between(x, low, high, color=style["color"], alpha=0.14, linewidth=0)
            handles += axes.plot(x, value, linewidth=1.6, label=literal(curve.label), **style)
            for kind, marker in shapes.items():
                chosen = np.array([entry == kind for entry in status])
                if not chosen.any():
                    continue  # an empty unclipped line would still claim space in the layout
                face = style["color"] if kind == "interior" else "white"
                dots: dict[str, Any] = {"color": style["color"], "markerfacecolor": face, "markersize": 7}
                axes.plot(x[chosen], value[chosen], linestyle="", marker=marker, clip_on=False, zorder=3, **dots)
        names = {"interior": "inside the grid", "right-censored": "above the grid", "left-censored": "below the grid"}
        for kind, marker in shapes.items():
            face = "#444444" if kind == "interior" else "white"
            handles.append(
                Line2D([], [], linestyle="", marker=marker, color="#444444", markerfacecolor=face, label=names[kind])
            )
        set_title(figure, title)
        label_axes(axes, x_title, y_title)
        axes.grid(color="#e6e6e6")
        pad_limits(axes, y_limits)
        place_legend(axes, handles)
    return figure


# --- single seeds -----------------------------------------------------------------------------------------------


def strip_plot(
    conditions: Sequence[Outcomes],
    *,
    title: str,
    x_title: str,
    y_title: str,
    cutoff: float | None = 0.5,
    y_limits: tuple[float, float] | None = (0.0, 1.0),
) -> Figure:
    """Draw every seed of every condition as a dot, the mean as a bar, and above it how many seeds collapsed.

    Outcomes often lie in two clusters, which a mean with a band hides.

    Args:
      conditions: left to right.
      title: of the figure.
      x_title: what distinguishes the conditions.
      y_title: name and unit of the outcome.
      cutoff: a seed below it counts as collapsed; None for no line and no counts.
      y_limits: range of the y axis; None for that of the data.
    Raises:
      ValueError: when a condition is not one-dimensional.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(min(max(6.4, 0.8 * len(conditions) + 3.0), 14.0), 4.4)
        for position, condition in enumerate(conditions):
            values = np.asarray(condition.values, dtype=np.float64)
            if values.ndim != 1:
                raise ValueError(f"condition {condition.label!r} has shape {values.shape}: give one outcome a seed")
            _strip(axes, position, np.sort(values[np.isfinite(values)]), cutoff)
        axes.set_xticks(range(len(conditions)), [literal(condition.label, 14) for condition in conditions])
        axes.set_xlim(-0.6, len(conditions) - 0.4)
        handles: list[Any] = [
            Line2D([], [], linestyle="", marker="o", color=PALETTE[0], alpha=0.6, label="one seed"),
            Line2D([], [], color="black", linewidth=2.2, label="mean"),
        ]
        if cutoff is not None:
            style: dict[str, Any] = {"color": PALETTE[1], "linestyle": "--", "linewidth": 1.2}
            axes.axhline(cutoff, **style, zorder=1)
            handles.append(Line2D([], [], **style, label=f"collapsed below {cutoff:g}\n(top: how many)"))
        set_title(figure, title)
        label_axes(axes, x_title, y_title)
        axes.grid(axis="y", color="#e6e6e6")
        pad_limits(axes, y_limits)
        place_legend(axes, handles)
    return figure


def _strip(axes: Axes, position: int, values: np.ndarray, cutoff: float | None) -> None:
    """One sorted condition; neighbours in value get different places by the golden ratio, so no draw is random."""
    golden = 0.6180339887498949
    offsets = 0.5 * ((np.arange(values.size) * golden) % 1.0 - 0.5)
    if values.size:
        offsets -= offsets.mean()
        axes.hlines(values.mean(), position - 0.34, position + 0.34, color="black", linewidth=2.0, zorder=2)
    axes.plot(position + offsets, values, "o", color=PALETTE[0], alpha=0.7, markersize=5.5, markeredgewidth=0, zorder=3)
    if cutoff is not None:
        count = f"{int(np.count_nonzero(values < cutoff))}/{values.size}{'†' if values.size < MIN_SEEDS else ''}"
        axes.annotate(count, (position, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=9)
