"""Drawing on a NumPy array, for viewers: shapes, text and colours, without a display, a font file or another package.

Every function draws in place on a picture, uint8 [H, W, 3]. Positions are (row, column) in pixels from the upper left corner
and may be fractions; what lies outside the picture is cut off. Colours are (red, green, blue), 0 ... 255. A shape's
`alpha` mixes it with what is below: 1 covers, 0 leaves no trace.

    picture = raster.tiles(board, [raster.FLOOR, raster.WALL], cell=24)
    raster.disc(picture, 12, 36, 9, raster.agent_colour(0))
    raster.text(picture, "7", 12, 36, raster.WHITE, centred=True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Colour = Sequence[int] | np.ndarray
"""(red, green, blue), each 0 ... 255."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
FLOOR, LINE, WALL = (240, 240, 238), (205, 205, 202), (90, 90, 96)
RED, GREEN, BLUE = (214, 39, 40), (44, 140, 60), (31, 119, 180)
YELLOW, ORANGE, PURPLE, BROWN = (255, 200, 0), (240, 130, 20), (130, 75, 170), (125, 80, 60)
GRASS, WATER, DIRT, SAND = (118, 176, 80), (92, 160, 214), (140, 108, 70), (226, 205, 150)

AGENTS = (
    (214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14),
    (23, 190, 207), (227, 119, 194), (140, 86, 75), (127, 127, 127), (188, 189, 34),
)  # fmt: skip
"""Colours of agents 0, 1, ...; they repeat after ten."""

_LOW, _MIDDLE, _HIGH = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]], np.float64)

_FONT = {
    "0": "### #.# #.# #.# ###", "1": ".#. ##. .#. .#. ###", "2": "### ..# ### #.. ###", "3": "### ..# ### ..# ###",
    "4": "#.# #.# ### ..# ..#", "5": "### #.. ### ..# ###", "6": "### #.. ### #.# ###", "7": "### ..# .#. .#. .#.",
    "8": "### #.# ### #.# ###", "9": "### #.# ### ..# ###", "A": ".#. #.# ### #.# #.#", "B": "##. #.# ##. #.# ##.",
    "C": ".## #.. #.. #.. .##", "D": "##. #.# #.# #.# ##.", "E": "### #.. ##. #.. ###", "F": "### #.. ##. #.. #..",
    "G": ".## #.. #.# #.# .##", "H": "#.# #.# ### #.# #.#", "I": "### .#. .#. .#. ###", "J": "..# ..# ..# #.# .#.",
    "K": "#.# #.# ##. #.# #.#", "L": "#.. #.. #.. #.. ###", "M": "#.# ### ### #.# #.#", "N": "##. #.# #.# #.# #.#",
    "O": ".#. #.# #.# #.# .#.", "P": "##. #.# ##. #.. #..", "Q": ".#. #.# #.# ##. .##", "R": "##. #.# ##. #.# #.#",
    "S": ".## #.. .#. ..# ##.", "T": "### .#. .#. .#. .#.", "U": "#.# #.# #.# #.# ###", "V": "#.# #.# #.# #.# .#.",
    "W": "#.# #.# ### ### #.#", "X": "#.# #.# .#. #.# #.#", "Y": "#.# #.# .#. .#. .#.", "Z": "### ..# .#. #.. ###",
    "+": "... .#. ### .#. ...", "-": "... ... ### ... ...", ".": "... ... ... ... .#.", ":": "... .#. ... .#. ...",
    "/": "..# ..# .#. #.. #..", "=": "... ### ... ### ...", "%": "#.# ..# .#. #.. #.#", "?": "### ..# .#. ... .#.",
    "!": ".#. .#. .#. ... .#.", "<": "..# .#. #.. .#. ..#", ">": "#.. .#. ..# .#. #..", " ": "... ... ... ... ...",
}  # fmt: skip
"""Letters of 5 rows by 3 columns."""

_GLYPHS = {sign: np.array([[dot == "#" for dot in row] for row in rows.split()]) for sign, rows in _FONT.items()}


def agent_colour(agent: int) -> tuple[int, int, int]:
    """Colour of an agent, by its index."""
    return AGENTS[int(agent) % len(AGENTS)]


def diverging(values: np.ndarray) -> np.ndarray:
    """Colours of numbers on a diverging scale over their own range.

    Args:
      values: [...] numbers.
    Returns:
      colours: [..., 3] uint8; blue at the minimum, white in the middle, red at the maximum, white if all are equal.
    """
    values = np.asarray(values, np.float64)
    low, high = values.min(), values.max()
    position = np.full(values.shape, 0.5) if high == low else (values - low) / (high - low)
    weight = np.abs(2 * position - 1)[..., None]
    end = np.where((position >= 0.5)[..., None], _HIGH, _LOW)
    return np.round((1 - weight) * _MIDDLE + weight * end).astype(np.uint8)


def canvas(height: int, width: int, colour: Colour = WHITE) -> np.ndarray:
    """uint8 [height, width, 3] picture of one colour."""
    return np.full((int(height), int(width), 3), colour, np.uint8)


def tiles(board: np.ndarray, colours: Sequence[Colour], cell: int, line: Colour | None = LINE) -> np.ndarray:
    """A board of square cells.

    Args:
      board: [R, C] integers, indices into `colours`.
      colours: K colours.
      cell: side of a cell in pixels.
      line: colour of the lines between cells; None for no lines.
    Returns:
      picture: uint8 [R * cell, C * cell, 3].
    """
    picture = np.asarray(colours, np.uint8)[np.asarray(board)].repeat(cell, axis=0).repeat(cell, axis=1)
    if line is not None:
        picture[::cell], picture[:, ::cell] = line, line
    return picture


def scale_up(picture: np.ndarray, factor: int) -> np.ndarray:
    """[H * factor, W * factor, 3]: every pixel becomes a square of `factor` by `factor`."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def rectangle(
    picture: np.ndarray, top: float, left: float, height: float, width: float, colour: Colour, alpha: float = 1.0
) -> None:
    """Fill the rectangle of rows top ... top + height and columns left ... left + width (rounded to pixels)."""
    rows, columns = _span(top, top + height, picture.shape[0]), _span(left, left + width, picture.shape[1])
    _mix(picture[rows, columns], ..., colour, alpha)


def frame(
    picture: np.ndarray, top: float, left: float, height: float, width: float, colour: Colour, thickness: int = 2
) -> None:
    """Draw the inner edge, `thickness` pixels wide, of a rectangle (arguments as for `rectangle`)."""
    rectangle(picture, top, left, thickness, width, colour)
    rectangle(picture, top + height - thickness, left, thickness, width, colour)
    rectangle(picture, top, left, height, thickness, colour)
    rectangle(picture, top, left + width - thickness, height, thickness, colour)


def disc(picture: np.ndarray, row: float, column: float, radius: float, colour: Colour, alpha: float = 1.0) -> None:
    """Fill the disc around a centre (a pixel belongs to it if its own centre does)."""
    ring(picture, row, column, radius, colour, radius, alpha)


def ring(
    picture: np.ndarray,
    row: float,
    column: float,
    radius: float,
    colour: Colour,
    thickness: float = 2.0,
    alpha: float = 1.0,
) -> None:
    """Draw a ring whose outer radius is `radius`; with `thickness >= radius` it is a disc."""
    part, y, x = _window(picture, row - radius, row + radius, column - radius, column + radius)
    distance = (y - row) ** 2 + (x - column) ** 2
    inside = distance <= radius**2
    if thickness < radius:
        inside &= distance > (radius - thickness) ** 2
    _mix(part, inside, colour, alpha)


def polygon(picture: np.ndarray, corners: np.ndarray | Sequence, colour: Colour, alpha: float = 1.0) -> None:
    """Fill a convex polygon.

    Args:
      picture: uint8 [H, W, 3].
      corners: [K, 2] (row, column) of its corners, in either direction of turning; K >= 3.
      colour: its colour. alpha: its opacity.
    """
    points = np.asarray(corners, np.float64)
    (top, left), (bottom, right) = points.min(axis=0), points.max(axis=0)
    part, y, x = _window(picture, top, bottom, left, right)
    sides = []
    for (y0, x0), (y1, x1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        sides.append((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0))
    sides = np.stack(sides)
    _mix(part, (sides >= 0).all(axis=0) | (sides <= 0).all(axis=0), colour, alpha)


def triangle(
    picture: np.ndarray, row: float, column: float, radius: float, direction: float, colour: Colour, alpha: float = 1.0
) -> None:
    """Fill an arrowhead around a centre.

    Args:
      picture: uint8 [H, W, 3].
      row: centre. column: centre.
      radius: distance of its corners from the centre, in pixels.
      direction: where it points, in quarter turns clockwise from up: 0 up, 1 right, 2 down, 3 left.
      colour: its colour. alpha: its opacity.
    """
    angle = np.pi / 2 * direction + np.array([0.0, 0.8 * np.pi, -0.8 * np.pi])
    polygon(picture, np.stack([row - radius * np.cos(angle), column + radius * np.sin(angle)], axis=1), colour, alpha)


def line(
    picture: np.ndarray,
    start: Sequence[float],
    end: Sequence[float],
    colour: Colour,
    thickness: float = 1.0,
    alpha: float = 1.0,
) -> None:
    """Draw a straight line with round ends from `start` to `end`, both (row, column)."""
    (y0, x0), (y1, x1) = start, end
    # A line narrower than half a diagonal of a pixel would have holes.
    half = max(thickness / 2, 0.5**0.5)
    top, bottom, left, right = min(y0, y1) - half, max(y0, y1) + half, min(x0, x1) - half, max(x0, x1) + half
    part, y, x = _window(picture, top, bottom, left, right)
    length = (y1 - y0) ** 2 + (x1 - x0) ** 2
    along = 0.0 if length == 0 else np.clip(((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / length, 0, 1)
    _mix(part, (y - y0 - along * (y1 - y0)) ** 2 + (x - x0 - along * (x1 - x0)) ** 2 <= half**2, colour, alpha)


def text(
    picture: np.ndarray,
    words: str,
    row: float,
    column: float,
    colour: Colour = BLACK,
    scale: int = 2,
    centred: bool = False,
) -> None:
    """Write one line of text in letters of 3 x 5 dots.

    Args:
      picture: uint8 [H, W, 3].
      words: digits, letters (drawn as capitals) and `+-.:/=%?!<>`; any other sign is drawn as `?`.
      row: upper edge of the text, or its middle if `centred`.
      column: left edge, or its middle if `centred`.
      colour: colour of the letters.
      scale: pixels on the side of a dot.
      centred: whether `row` and `column` give the middle.
    """
    height, width = text_size(words, scale)
    if centred:
        row, column = row - height / 2, column - width / 2
    top, left = round(row), round(column)
    for position, sign in enumerate(words.upper()):
        dots = _GLYPHS.get(sign, _GLYPHS["?"])
        for y, x in zip(*np.nonzero(dots), strict=True):
            rectangle(picture, top + y * scale, left + (4 * position + x) * scale, scale, scale, colour)


def text_size(words: str, scale: int = 2) -> tuple[int, int]:
    """(height, width) in pixels of a line of text."""
    return 5 * scale, max(4 * len(words) - 1, 0) * scale


def _span(low: float, high: float, size: int) -> slice:
    return slice(min(max(round(low), 0), size), min(max(round(high), 0), size))


def _window(
    picture: np.ndarray, top: float, bottom: float, left: float, right: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of a picture that a shape can touch, and the rows [h, 1] and columns [1, w] of its pixels' centres."""
    rows = _span(np.floor(top), np.ceil(bottom) + 1, picture.shape[0])
    columns = _span(np.floor(left), np.ceil(right) + 1, picture.shape[1])
    y = np.arange(rows.start, rows.stop)[:, None] + 0.5
    x = np.arange(columns.start, columns.stop)[None, :] + 0.5
    return picture[rows, columns], y, x


def _mix(part: np.ndarray, inside: Any, colour: Colour, alpha: float) -> None:
    if alpha >= 1:
        part[inside] = colour
    else:
        part[inside] = np.round((1 - alpha) * part[inside] + alpha * np.asarray(colour, np.float64)).astype(np.uint8)
