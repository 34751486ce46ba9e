"""Pictures of matrix games and public-goods games, drawn with NumPy alone (no text, no display).

Payoffs are coloured on a diverging scale: white is the middle of the range, red above, blue below.
"""

from __future__ import annotations

import numpy as np

CELL = 48
"""Side of one payoff cell in pixels."""
FRAME = 4
"""Width in pixels of the frame around the joint action played last."""

_LOW = np.array([33, 102, 172], np.float64)
_MIDDLE = np.array([247, 247, 247], np.float64)
_HIGH = np.array([178, 24, 43], np.float64)
_HIGHLIGHT = np.array([255, 200, 0], np.uint8)
_COOPERATE = np.array([27, 120, 55], np.uint8)
_DEFECT = np.array([118, 42, 131], np.uint8)
_IDLE = np.array([200, 200, 200], np.uint8)
_BACKGROUND = np.array([255, 255, 255], np.uint8)


def payoff_colours(values: np.ndarray) -> np.ndarray:
    """Colours of payoffs on a diverging scale over their own range.

    Args:
      values: [...] payoffs.
    Returns:
      colours: [..., 3] uint8; blue at the minimum, white in the middle, red at the maximum.
    """
    values = np.asarray(values, np.float64)
    low, high = values.min(), values.max()
    position = np.full(values.shape, 0.5) if high == low else (values - low) / (high - low)
    weight = np.abs(2 * position - 1)[..., None]
    end = np.where((position >= 0.5)[..., None], _HIGH, _LOW)
    return np.round((1 - weight) * _MIDDLE + weight * end).astype(np.uint8)


def render_payoffs(payoff: np.ndarray, last_action: np.ndarray) -> np.ndarray:
    """Draw a payoff tensor with the last joint action framed.

    Rows are the actions of agent 0, columns the joint actions of the others (row-major); a cell is cut into one
    vertical stripe an agent, coloured by that agent's payoff.

    Args:
      payoff: [N, A_1, ..., A_N]. last_action: [N] integers, -1 before the first step (nothing is framed then).
    Returns:
      picture: uint8 [H, W, 3], H = A_1 * CELL, W = (A_2 * ... * A_N) * CELL.
    """
    payoff, last_action = np.asarray(payoff), np.asarray(last_action)
    num_agents, num_rows = payoff.shape[:2]
    colours = payoff_colours(payoff.reshape(num_agents, num_rows, -1))
    num_columns = colours.shape[2]
    stripe_owner = np.arange(CELL) * num_agents // CELL
    # [rows, columns, stripe pixel, 3] -> repeat downwards to full cells.
    cells = np.moveaxis(colours[stripe_owner], 0, 2)
    picture = np.repeat(cells.reshape(num_rows, num_columns * CELL, 3), CELL, axis=0)
    picture[::CELL], picture[:, ::CELL] = 0, 0
    if last_action[0] >= 0:
        column = np.ravel_multi_index(tuple(last_action[1:]), payoff.shape[2:])
        _frame(picture, int(last_action[0]) * CELL, int(column) * CELL)
    return picture


def _frame(picture: np.ndarray, top: int, left: int) -> None:
    cell = picture[top : top + CELL, left : left + CELL]
    cell[:FRAME], cell[-FRAME:] = _HIGHLIGHT, _HIGHLIGHT
    cell[:, :FRAME], cell[:, -FRAME:] = _HIGHLIGHT, _HIGHLIGHT


def render_contributions(last_action: np.ndarray, payoffs: np.ndarray) -> np.ndarray:
    """Draw one column an agent: its last action above, its payoff below.

    Args:
      last_action: [N] integers: 0 contributed (green), 1 did not (purple), -1 before the first step (grey).
      payoffs: [N] payoffs of the last step, coloured on the diverging scale (white if all are equal).
    Returns:
      picture: uint8 [2 * CELL, N * CELL, 3].
    """
    last_action = np.asarray(last_action)
    actions = np.where((last_action == 0)[:, None], _COOPERATE, _DEFECT)
    actions = np.where((last_action < 0)[:, None], _IDLE, actions)
    rows = np.stack([actions, payoff_colours(payoffs)])
    picture = rows.repeat(CELL, axis=0).repeat(CELL, axis=1)
    picture[:, ::CELL] = _BACKGROUND
    picture[::CELL] = _BACKGROUND
    return picture
