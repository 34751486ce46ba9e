"""Pictures of other suites' environments, drawn by their own viewers, off the screen.

Jumanji's environments have a Matplotlib viewer each; of JaxMARL's, the particle worlds (`MPE_*`) have one that draws a single
state. Read: Jumanji 1.1.2, JaxMARL 0.2.0.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from marl_bench.adapters.extras import import_extra, silent_output

DOTS_PER_INCH = 40
"""Resolution: Jumanji's figures of 10 by 10 inches become 400 by 400 pixels."""


def jumanji_picture(env: Any, state: Any) -> np.ndarray | None:
    """uint8 [H, W, 3] picture of one of Jumanji's states, by the viewer of its environment; None if it has none.

    Args:
      env: Jumanji's environment. state: its state, of arrays that can be read.
    """
    # Environments keep it under different names.
    names = [name for name, value in vars(env).items() if hasattr(value, "_display_rgb_array")]
    if not names:
        return None
    # The environment's own viewer shows windows, and not every `render` returns what it drew; the copy keeps the pixels.
    env, viewer = copy.copy(env), copy.copy(getattr(env, names[0]))
    pixels: list[np.ndarray] = []
    viewer._name = f"marl-bench {viewer._name}"
    viewer._display = lambda figure: pixels.append(_opaque(viewer._display_rgb_array(figure)))
    setattr(env, names[0], viewer)
    with _off_screen() as pyplot:
        try:
            env.render(state)
        finally:
            pyplot.close(viewer._name)
    return pixels[-1] if pixels else None


def particles_picture(env: Any, state: Any) -> np.ndarray:
    """uint8 [H, W, 3] picture of a state of one of JaxMARL's particle worlds, by its `MPEVisualizer`."""
    visualizer = import_extra("jaxmarl.environments.mpe", "jaxmarl").MPEVisualizer
    with _off_screen() as pyplot, silent_output():
        figure = visualizer(env, [state]).fig
        try:
            figure.canvas.draw()
            return _opaque(figure.canvas.buffer_rgba())
        finally:
            pyplot.close(figure)


def _opaque(pixels: Any) -> np.ndarray:
    """uint8 [H, W, 3] copy of RGBA pixels [H, W, 4]."""
    return np.array(pixels, np.uint8)[..., :3]


@contextlib.contextmanager
def _off_screen() -> Iterator[Any]:
    """`matplotlib.pyplot` with a backend that opens no windows; the user's backend and settings return afterwards."""
    import matplotlib
    from matplotlib import pyplot

    backend = matplotlib.get_backend()
    with matplotlib.rc_context({"figure.dpi": DOTS_PER_INCH}), warnings.catch_warnings():
        # Viewers ask for a window, which this backend answers with a warning.
        warnings.filterwarnings("ignore", message=".*non-interactive", category=UserWarning)
        pyplot.switch_backend("agg")
        try:
            yield pyplot
        finally:
            pyplot.switch_backend(backend)
