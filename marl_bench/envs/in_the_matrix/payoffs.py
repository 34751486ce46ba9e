"""The matrix games that agents play when they meet, in the conventions of Melting Pot 2's substrates of these names.

Rows are the row player's pure strategies, columns the column player's; strategy k is resource type k. The column
player's matrix B is the transpose of A unless stated. Resource 0 is the cooperative one in the three dilemmas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Payoffs(NamedTuple):
    """A two-player game of K strategies.

    Attributes:
      row: [K, K] float32, the row player's payoffs A.
      column: [K, K] float32, the column player's payoffs B.
      roles: whether every agent is a row or a column player for good; else the agent that fires is the row player.
      strategies: names of the K strategies.
    """

    row: np.ndarray
    column: np.ndarray
    roles: bool
    strategies: tuple[str, ...]


def _symmetric(row: list[list[float]], strategies: tuple[str, ...]) -> Payoffs:
    matrix = np.array(row, np.float32)
    return Payoffs(matrix, matrix.T.copy(), False, strategies)


GAMES = {
    "prisoners_dilemma": _symmetric([[3, 0], [5, 1]], ("cooperate", "defect")),
    "chicken": _symmetric([[3, 2], [5, 0]], ("dove", "hawk")),
    "stag_hunt": _symmetric([[4, 0], [2, 2]], ("stag", "hare")),
    "pure_coordination": _symmetric([[1, 0, 0], [0, 1, 0], [0, 0, 1]], ("first", "second", "third")),
    "rationalizable": _symmetric([[1, 0, 0], [0, 2, 0], [0, 0, 3]], ("first", "second", "third")),
    "bach_stravinsky": Payoffs(
        np.array([[3, 0], [0, 2]], np.float32),
        np.array([[2, 0], [0, 3]], np.float32),
        True,
        ("bach", "stravinsky"),
    ),
    "running_with_scissors": _symmetric([[0, -10, 10], [10, 0, -10], [-10, 10, 0]], ("rock", "paper", "scissors")),
}
"""By the value of the field `game`."""
