"""Named payoff tables of matrix games; what theory says about them is in `closed_forms`.

Action 0 is the cooperative (first) action, action 1 the defecting (second) one. A payoff table is a tensor
[2, A, A]: entry [i, a, b] is agent i's payoff when agent 0 plays a and agent 1 plays b. Symmetric 2x2 games are
written with four letters: R (both cooperate), S (own cooperation, other's defection), T (own defection, other's
cooperation), P (both defect).

Sources: Axelrod 1984 (prisoner's dilemma); Foerster et al. 2018 (negative form); Leibo et al. 2021, Melting Pot
(stag hunt, chicken); Claus & Boutilier 1998 (climbing, penalty); Son et al. 2019, QTRAN (non-monotone).

The two-step game of QMIX has states and is an environment of its own (`two_step`); cooperative games of many agents
are in `team_game`, dilemmas of many agents in `public_goods` and `collective_dilemma`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np


def bimatrix(row: Any, column: Any) -> np.ndarray:
    """Stack two payoff matrices into a read-only tensor.

    Args:
      row: [A, B] payoffs of agent 0, indexed [action of agent 0, action of agent 1].
      column: [A, B] payoffs of agent 1, same indices.
    Returns:
      payoff: float32 [2, A, B].
    Raises:
      ValueError: when the shapes differ or are not two-dimensional.
    """
    first, second = np.asarray(row, np.float32), np.asarray(column, np.float32)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"row {first.shape} and column {second.shape}: must be matrices of the same shape [A, B]")
    payoff = np.stack([first, second])
    payoff.setflags(write=False)
    return payoff


def symmetric_2x2(reward: float, sucker: float, temptation: float, punishment: float) -> np.ndarray:
    """Payoffs float32 [2, 2, 2] of the symmetric game with letters R, S, T, P."""
    own = np.array([[reward, sucker], [temptation, punishment]], np.float32)
    return bimatrix(own, own.T)


def common_payoff(matrix: Any) -> np.ndarray:
    """Payoffs float32 [2, A, B] of the cooperative game in which both agents receive `matrix` [A, B]."""
    return bimatrix(matrix, matrix)


def zero_sum(matrix: Any) -> np.ndarray:
    """Payoffs float32 [2, A, B] of the game in which agent 0 receives `matrix` [A, B] and agent 1 its negative."""
    own = np.asarray(matrix, np.float32)
    # 0 - x rather than -x, so that no payoff is a negative zero.
    return bimatrix(own, 0 - own)


def plane(sucker: float, temptation: float) -> np.ndarray:
    """Payoffs float32 [2, 2, 2] of the S-T plane: R = 1, P = 0, so that two numbers span the four classes."""
    return symmetric_2x2(1.0, sucker, temptation, 0.0)


def donation(dilemma_strength: float) -> np.ndarray:
    """Prisoner's dilemma in donation form: cost D_r, benefit 1 + D_r; R = 1, S = -D_r, T = 1 + D_r, P = 0."""
    return symmetric_2x2(1.0, -dilemma_strength, 1.0 + dilemma_strength, 0.0)


def coordination(num_actions: int) -> np.ndarray:
    """Pure coordination [2, A, A]: both receive 1 when their actions agree, else 0."""
    return common_payoff(np.eye(num_actions))


def penalty(penalty_payoff: float) -> np.ndarray:
    """Penalty game float32 [2, 3, 3] (Claus & Boutilier 1998); `penalty_payoff` is k <= 0, usually 0 ... -100."""
    return common_payoff([[10, 0, penalty_payoff], [0, 2, 0], [penalty_payoff, 0, 10]])


def _named_games() -> dict[str, np.ndarray]:
    return {
        "prisoners_dilemma": symmetric_2x2(3, 0, 5, 1),
        "prisoners_dilemma_negative": symmetric_2x2(-1, -3, 0, -2),
        "donation": donation(0.25),
        "stag_hunt": symmetric_2x2(4, 0, 2, 2),
        "stag_hunt_risky": symmetric_2x2(4, 0, 3, 2),
        "chicken": symmetric_2x2(3, 2, 5, 0),
        "harmony": symmetric_2x2(4, 3, 2, 1),
        "deadlock": symmetric_2x2(1, 0, 3, 2),
        "coordination": coordination(2),
        "rationalizable_coordination": common_payoff(np.diag([1, 2, 3])),
        "battle_of_the_sexes": bimatrix(np.diag([3, 2]), np.diag([2, 3])),
        "matching_pennies": zero_sum([[1, -1], [-1, 1]]),
        "rock_paper_scissors": zero_sum([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]),
        "rock_paper_scissors_10": zero_sum([[0, -10, 10], [10, 0, -10], [-10, 10, 0]]),
        "climbing": common_payoff([[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
        "penalty": penalty(-100),
        "penalty_0": penalty(0),
        "penalty_25": penalty(-25),
        "penalty_50": penalty(-50),
        "penalty_75": penalty(-75),
        "non_monotone": common_payoff([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]),
        "additive": common_payoff(np.add.outer([0, 1, 2], [0, 2, 4])),
    }


GAMES: Mapping[str, np.ndarray] = MappingProxyType(_named_games())
"""Name -> payoffs, float32 [2, A, A], read-only."""
