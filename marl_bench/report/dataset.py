"""Figure of a data set: returns of its episodes, the actions in it, and how much of its steps is new."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from marl_bench.report.canvas import PALETTE, STYLE, label_axes, new_figure, set_title


def dataset_figure(
    title: str,
    returns: Sequence[np.ndarray],
    actions: tuple[np.ndarray, np.ndarray],
    unique: Sequence[np.ndarray],
) -> Figure:
    """Draw K data sets, one line each.

    Args:
      title: of the figure.
      returns: K arrays [E], mean over agents of each episode's return.
      actions: left edges [A] and shares [A] of the actions: their numbers, or bins of the entries of vectors.
      unique: K arrays [P], share of distinct pairs of state and joint action among the first 1/P, 2/P, ... of the steps.
    """
    with matplotlib.rc_context(STYLE):
        figure, (left, middle, right) = new_figure(11.0, 3.4, 3)
        low, high = min(map(np.min, returns)), max(map(np.max, returns))
        edges = np.linspace(low, high if high > low else low + 1.0, 41)
        for number, values in enumerate(returns):
            share = np.histogram(values, edges)[0] / values.size
            left.stairs(share, edges, color=PALETTE[number % len(PALETTE)], label=f"{number}", linewidth=1.2)
        label_axes(left, "return of an episode (mean over agents)", "share of episodes")
        places, shares = actions
        width = places[1] - places[0] if places.size > 1 else 1.0
        middle.bar(places, shares, width=0.9 * width, color=PALETTE[0])
        label_axes(middle, "action", "share of actions")
        for number, share in enumerate(unique):
            steps = np.arange(1, share.size + 1) / share.size
            right.plot(steps, share, color=PALETTE[number % len(PALETTE)], label=f"{number}", linewidth=1.2)
        right.set_ylim(0.0, 1.03)
        label_axes(right, "share of the steps read", "distinct (state, joint action) / steps")
        if 1 < len(returns) <= 10:
            right.legend(title="part", fontsize=8, ncols=2)
        set_title(figure, title)
    return figure
