"""Picture of a particle world: bodies and landmarks as discs, and what was said last."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from marl_bench.envs import raster

SIDE = 320
"""Pixels on a side of the picture."""

_MARGIN = 0.15
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

GOOD, PREDATOR, LEADER, PREY = raster.BLUE, raster.RED, (140, 20, 30), raster.GREEN
LANDMARK, OBSTACLE, FOOD, FOREST = (120, 120, 124), (70, 70, 74), raster.ORANGE, (120, 190, 110)


class Disc(NamedTuple):
    """How a body or landmark looks.

    Attributes:
      size: radius, in the world's unit of length.
      colour: (red, green, blue).
      alpha: opacity, 0 ... 1.
      marked: whether it has a ring around it (a goal).
    """

    size: float
    colour: raster.Colour
    alpha: float = 1.0
    marked: bool = False


def draw(world: Any, state: Any) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]: landmarks below, bodies above with their index, messages as letters.

    The picture shows at least [-1, 1] on both axes (its frame), and everything that has left it.

    Args:
      world: a particle world with `body_look()` and `landmark_look(state)`, lists of `Disc`.
      state: its state.
    """
    position, landmark = np.asarray(state.position), np.asarray(state.landmark)
    discs = [*world.landmark_look(state), *world.body_look()]
    places = np.concatenate([landmark, position])
    reach = max(1.0, float(np.abs(places).max())) + _MARGIN
    pixels = SIDE / (2 * reach)
    picture = raster.canvas(SIDE, SIDE)
    left, side = SIDE / 2 - pixels, 2 * pixels
    raster.frame(picture, left, left, side, side, raster.LINE, 1)
    for index, (disc, (x, y)) in enumerate(zip(discs, places, strict=True)):
        row, column, radius = SIDE / 2 - y * pixels, SIDE / 2 + x * pixels, max(disc.size * pixels, 2.0)
        raster.disc(picture, row, column, radius, disc.colour, disc.alpha)
        if disc.marked:
            raster.ring(picture, row, column, radius + 5, raster.BLACK)
        if index >= len(landmark):
            raster.text(picture, str(index - len(landmark)), row, column, raster.WHITE, 1, centred=True)
    if state.message is not None:
        _write_messages(picture, np.asarray(state.message))
    return picture


def _write_messages(picture: np.ndarray, messages: np.ndarray) -> None:
    """One line for each speaker: its index, and the letter of the largest entry of its message."""
    for speaker, message in enumerate(messages):
        word = _LETTERS[int(message.argmax()) % len(_LETTERS)] if message.any() else "-"
        raster.text(picture, f"{speaker}: {word}", 6 + 14 * speaker, 6)
