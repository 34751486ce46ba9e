"""Canvas, style, labels and files of a figure: what every drawing in `figures` shares."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from marl_bench.naming import safe_name

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe & Ito 2008 without yellow, which is too light on white."""

DPI = 150
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "marl-bench",
    "svg.fonttype": "path",
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}


def new_figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches with panels side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def save_figure(figure: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write `name.svg` and `name.png` into a folder, each whole or not at all.

    Args:
      figure: from a function of this module.
      folder: made if missing.
      name: file name without ending.
    Returns:
      paths of the SVG and of the PNG file.
    Raises:
      ValueError: when `name` cannot be a file name. OSError: when the folder cannot be written.
    """
    stem = Path(folder).expanduser() / safe_name(name, "figure name")
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = (stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png"))
    with matplotlib.rc_context(STYLE):
        for path, metadata in zip(paths, ({"Date": None, "Creator": None}, {"Software": None}), strict=True):
            partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                figure.savefig(partial, format=path.suffix[1:], dpi=DPI, metadata=metadata)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    return paths


def literal(text: Any, width: int = 26) -> str:
    """Text wrapped for a legend or tick, with dollar signs that do not start mathtext."""
    lines = textwrap.wrap(str(text), width) or [" "]
    return "\n".join(lines[:3] + (["…"] if len(lines) > 3 else [])).replace("$", r"\$")


def tick_texts(labels: Sequence[Any]) -> list[str]:
    """Labels of conditions: numbers with the same number of decimals, names wrapped."""
    if not all(isinstance(label, (int, float, np.number)) for label in labels):
        return [literal(label, 14) for label in labels]
    decimals = max((len(f"{label:.3f}".rstrip("0").partition(".")[2]) for label in labels), default=0)
    return [f"{label:.{decimals}f}" for label in labels]


def set_title(figure: Figure, title: str) -> None:
    """Title at the upper left of the whole figure, wrapped to its width."""
    characters = int(11 * figure.get_figwidth())
    figure.suptitle("\n".join(textwrap.wrap(title, characters)), x=0.01, ha="left", fontsize=11)


def label_axes(axes: Axes, x_title: str, y_title: str) -> None:
    """Set the axis titles."""
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)


def pad_limits(axes: Axes, limits: tuple[float, float] | None) -> None:
    """Fix the y axis with a little air, so that points on the limits are not cut."""
    if limits is not None:
        air = 0.03 * (limits[1] - limits[0])
        axes.set_ylim(limits[0] - air, limits[1] + air)


def place_legend(axes: Axes, handles: Sequence[Any]) -> None:
    """Legend to the right of the axes, never over the data."""
    if handles:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
        axes.legend(handles=list(handles), handlelength=2.6, labelspacing=0.7, **place)


def height_for(labels: Sequence[Any], extra: int = 0) -> float:
    """Inches that a plot needs so that its legend of these labels, and `extra` lines, fits beside it."""
    lines = extra + sum(literal(label).count("\n") + 1 for label in labels)
    return max(4.4, 1.0 + 0.18 * lines + 0.12 * len(labels))


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of series `index`; the combination repeats only after 28 series."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def as_series(**columns: ArrayLike) -> list[np.ndarray]:
    """The columns as float [T] arrays of one length."""
    arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or next(iter(shapes.values())) == () or any(len(s) != 1 for s in shapes.values()):
        raise ValueError(f"a series needs columns of one length, got shapes {shapes}")
    return list(arrays.values())
