"""Pictures of matrix games and public-goods games, drawn with NumPy alone (no display).

Payoffs are coloured on a diverging scale: white is the middle of the range, red above, blue below.
"""

from __future__ import annotations

import numpy as np

from marl_bench.envs import raster

CELL = 48
"""Side of one payoff cell in pixels."""
FRAME = 4
"""Width in pixels of the frame around the joint action played last."""

_COOPERATE, _DEFECT, _IDLE = (27, 120, 55), (118, 42, 131), (200, 200, 200)


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
    colours = raster.diverging(payoff.reshape(num_agents, num_rows, -1))
    num_columns = colours.shape[2]
    stripe_owner = np.arange(CELL) * num_agents // CELL
    # [rows, columns, stripe pixel, 3] -> repeat downwards to full cells.
    cells = np.moveaxis(colours[stripe_owner], 0, 2)
    picture = np.repeat(cells.reshape(num_rows, num_columns * CELL, 3), CELL, axis=0)
    picture[::CELL], picture[:, ::CELL] = 0, 0
    if last_action[0] >= 0:
        column = np.ravel_multi_index(tuple(last_action[1:]), payoff.shape[2:])
        top, left = int(last_action[0]) * CELL, int(column) * CELL
        raster.frame(picture, top, left, CELL, CELL, raster.YELLOW, FRAME)
    return picture


def render_contributions(last_action: np.ndarray, payoffs: np.ndarray) -> np.ndarray:
    """Draw one column an agent: its last action above, its payoff below.

    Args:
      last_action: [N] integers: 0 contributed (green), 1 did not (purple), -1 before the first step (grey).
      payoffs: [N] payoffs of the last step, coloured on the diverging scale (white if all are equal).
    Returns:
      picture: uint8 [2 * CELL, N * CELL, 3].
    """
    last_action = np.asarray(last_action)
    actions = np.where((last_action == 0)[:, None], _COOPERATE, _DEFECT).astype(np.uint8)
    actions = np.where((last_action < 0)[:, None], _IDLE, actions).astype(np.uint8)
    rows = np.stack([actions, raster.diverging(payoffs)])
    picture = rows.repeat(CELL, axis=0).repeat(CELL, axis=1)
    picture[:, ::CELL] = raster.WHITE
    picture[::CELL] = raster.WHITE
    return picture


def render_actions(last_action: np.ndarray) -> np.ndarray:
    """Draw one square an agent: the colour and the number of its last action; grey before the first step.

    Args:
      last_action: [N] integers, -1 before the first step.
    Returns:
      picture: uint8 [CELL, N * CELL, 3].
    """
    last_action = np.asarray(last_action)
    colours = [_IDLE if action < 0 else raster.agent_colour(action) for action in last_action]
    picture = np.asarray([colours], np.uint8).repeat(CELL, axis=0).repeat(CELL, axis=1)
    for agent, action in enumerate(last_action):
        if action >= 0:
            raster.text(picture, str(int(action)), CELL / 2, (agent + 0.5) * CELL, raster.WHITE, 4, centred=True)
    picture[:, ::CELL] = raster.WHITE
    return picture
