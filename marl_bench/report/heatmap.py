"""The heat map of an outcome over two conditions: the phase diagram of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from marl_bench.report.canvas import STYLE, new_figure, set_title, tick_texts

_MANY_CELLS = 120
_MANY_TICKS = 16


def heat_map(
    x_labels: Sequence[Any],
    y_labels: Sequence[Any],
    values: ArrayLike,
    *,
    title: str,
    x_title: str,
    y_title: str,
    value_title: str,
    limits: tuple[float, float] | None = (0.0, 1.0),
    second: ArrayLike | None = None,
    second_title: str = "Fraction of collapsed seeds",
) -> Figure:
    """Draw an outcome over two conditions, with an optional second panel; missing conditions are hatched.

    Args:
      x_labels: [X] conditions of the columns, e.g. B.
      y_labels: [Y] conditions of the rows, bottom to top, e.g. Dr.
      values: [Y, X] outcome, e.g. mean cooperation; NaN where missing.
      title: of the figure.
      x_title: name and unit of the columns.
      y_title: name and unit of the rows.
      value_title: name and unit of the outcome.
      limits: range of the colours; None for that of the data.
      second: [Y, X] fraction in [0, 1] for the second panel.
      second_title: its name.
    Raises:
      ValueError: when the shapes do not fit.
    """
    panels = [(np.asarray(values, dtype=np.float64), value_title, limits, "viridis")]
    if second is not None:
        panels.append((np.asarray(second, dtype=np.float64), second_title, (0.0, 1.0), "cividis_r"))
    shape = (len(y_labels), len(x_labels))
    for grid, name, _, _ in panels:
        if grid.shape != shape or 0 in shape:
            raise ValueError(f"{name}: values have shape {grid.shape}, the labels ask for {shape}")
    with matplotlib.rc_context(STYLE):
        width = min(max(3.4, 0.55 * shape[1] + 1.8), 8.0)
        height = min(max(3.0, 0.34 * shape[0] + 1.5), 8.0)
        figure, axes = new_figure(width * len(panels), height, len(panels))
        for panel, (grid, name, span, colours) in zip(axes, panels, strict=True):
            _heat_panel(figure, panel, grid, name, span, colours, x_labels, y_labels)
            panel.set_xlabel(x_title)
        axes[0].set_ylabel(y_title)
        set_title(figure, title)
    return figure


def _heat_panel(
    figure: Figure,
    axes: Axes,
    grid: np.ndarray,
    name: str,
    limits: tuple[float, float] | None,
    colours: str,
    x_labels: Sequence[Any],
    y_labels: Sequence[Any],
) -> None:
    low, high = limits if limits is not None else (None, None)
    axes.set_facecolor("#dddddd")
    axes.patch.set_hatch("///")
    axes.patch.set_edgecolor("#999999")
    shown = np.ma.masked_invalid(grid)
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="none")
    axes.spines[:].set_visible(False)
    for labels, axis in ((x_labels, axes.xaxis), (y_labels, axes.yaxis)):
        step = -(-len(labels) // _MANY_TICKS)
        axis.set_ticks(range(0, len(labels), step), tick_texts(labels)[::step])
    if len(x_labels) > 8 or any(len(text) > 6 for text in tick_texts(x_labels)):
        axes.tick_params(axis="x", labelrotation=90)
    figure.colorbar(image, ax=axes, label=name, fraction=0.06, pad=0.02)
    if grid.size <= _MANY_CELLS:
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
