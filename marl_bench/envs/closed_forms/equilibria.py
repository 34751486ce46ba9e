"""Equilibria of one-shot matrix games: gaps, best responses, support enumeration, welfare, classes of 2x2 games.

A payoff table is [2, A, B] (or [N, A_1, ..., A_N]), entry [i, a, b] agent i's payoff; see `marl_bench.envs.games`.
Sources: Nash 1951; support enumeration as in Nisan et al. 2007, *Algorithmic Game Theory*, section 3.2; price of anarchy,
Koutsoupias & Papadimitriou 1999; gamble and risk, Tanimoto & Sagara 2007.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def nash_gap(x: Any, y: Any, row: Any, column: Any) -> jax.Array:
    """Sum of what each agent could gain by deviating: 0 exactly at a Nash equilibrium.

    [max_i (Ay)_i - x'Ay] + [max_j (x'B)_j - x'By].

    Args:
      x: [A] mixed strategy of agent 0. y: [B] mixed strategy of agent 1.
      row: [A, B] payoffs of agent 0. column: [A, B] payoffs of agent 1.
    Returns:
      gap: [] float32 >= 0 (to rounding), in units of payoff.
    """
    x, y, row, column = (jnp.asarray(value, jnp.float32) for value in (x, y, row, column))
    row_values, column_values = row @ y, x @ column
    return (row_values.max() - x @ row_values) + (column_values.max() - column_values @ y)


def best_responses(other: Any, matrix: Any, tolerance: float = 1e-6) -> jax.Array:
    """Which pure actions are best against a mixed strategy.

    Args:
      other: [B] mixed strategy of the other agent.
      matrix: [A, B] own payoffs, own action first (for agent 1: the transpose of its table).
      tolerance: actions within this payoff of the best count as best.
    Returns:
      mask: [A] bool.
    """
    values = jnp.asarray(matrix, jnp.float32) @ jnp.asarray(other, jnp.float32)
    return values >= values.max() - tolerance


def pure_equilibria(payoff: Any) -> jax.Array:
    """Which joint actions are pure Nash equilibria, for any number of agents.

    Args:
      payoff: [N, A_1, ..., A_N].
    Returns:
      mask: [A_1, ..., A_N] bool, True where no agent gains by deviating alone.
    """
    table = jnp.asarray(payoff, jnp.float32)
    stable = jnp.ones(table.shape[1:], bool)
    for agent in range(table.shape[0]):
        stable &= table[agent] >= table[agent].max(axis=agent, keepdims=True)
    return stable


def _indifferent(matrix: np.ndarray) -> np.ndarray | None:
    """Mixture y [k] that makes every row of `matrix` [k, k] equally good; None if it is not unique and positive."""
    size = len(matrix)
    system = np.block([[matrix, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
    if np.linalg.matrix_rank(system) <= size:
        return None
    mixture = np.linalg.solve(system, np.eye(size + 1)[-1])[:-1]
    return mixture if (mixture > 1e-9).all() else None


def nash_equilibria(row: Any, column: Any, tolerance: float = 1e-7) -> list[tuple[np.ndarray, np.ndarray]]:
    """Enumerate the equilibria of a small two-player game over supports of equal size (host, float64).

    Complete for non-degenerate games, that is, where no mixed strategy has more best responses than actions in its
    support; in a degenerate game (ties) it finds the isolated ones and the ends of some continua.

    Args:
      row: [A, B] payoffs of agent 0. column: [A, B] payoffs of agent 1.
      tolerance: how much a deviation may gain by rounding.
    Returns:
      equilibria: list of (x [A], y [B]) mixed strategies, smaller supports first.
    """
    first, second = np.asarray(row, float), np.asarray(column, float)
    found = []
    for size in range(1, min(first.shape) + 1):
        supports = itertools.product(
            itertools.combinations(range(first.shape[0]), size), itertools.combinations(range(first.shape[1]), size)
        )
        for own, other in supports:
            on_columns = _indifferent(first[np.ix_(own, other)])
            on_rows = _indifferent(second[np.ix_(own, other)].T)
            if on_columns is None or on_rows is None:
                continue
            x, y = np.zeros(first.shape[0]), np.zeros(first.shape[1])
            x[list(own)], y[list(other)] = on_rows, on_columns
            stable = (first @ y).max() <= x @ first @ y + tolerance
            if stable and (x @ second).max() <= x @ second @ y + tolerance:
                found.append((x, y))
    return found


def price_of_anarchy(row: Any, column: Any) -> float:
    """Largest total payoff of a joint action over the total payoff of the worst equilibrium (>= 1).

    Args:
      row: [A, B] payoffs of agent 0. column: [A, B] payoffs of agent 1.
    Raises:
      ValueError: when no equilibrium is found, or the worst one does not pay more than 0 (the ratio means nothing).
    """
    total = np.asarray(row, float) + np.asarray(column, float)
    values = [float(x @ total @ y) for x, y in nash_equilibria(row, column)]
    if not values or min(values) <= 0:
        raise ValueError("price of anarchy needs an equilibrium with positive total payoff; shift the payoffs upwards")
    return float(total.max()) / min(values)


def welfare(payoff: Any, *strategies: Any) -> jax.Array:
    """Total expected payoff of independent mixed strategies.

    Args:
      payoff: [N, A_1, ..., A_N]. strategies: N mixed strategies, [A_i] each.
    Returns:
      welfare: [] float32, summed over agents.
    Raises:
      ValueError: when the number of strategies is not N.
    """
    total = jnp.asarray(payoff, jnp.float32)
    if len(strategies) != total.shape[0]:
        raise ValueError(f"{len(strategies)} strategies for {total.shape[0]} agents: give one [A_i] for each")
    total = total.sum(axis=0)
    for strategy in strategies:
        total = jnp.tensordot(jnp.asarray(strategy, jnp.float32), total, 1)
    return total


CLASSES = ("prisoners_dilemma", "chicken", "stag_hunt", "harmony")
"""Classes of symmetric 2x2 games by the signs of gamble T - R and risk P - S: (+, +), (+, -), (-, +), (-, -)."""


def gamble_and_risk(payoff: Any) -> tuple[jax.Array, jax.Array]:
    """D_g = T - R (gamble-intending dilemma) and D_s = P - S (risk-averting dilemma) of a symmetric game [2, 2, 2]."""
    own = jnp.asarray(payoff, jnp.float32)[0]
    return own[1, 0] - own[0, 0], own[1, 1] - own[0, 1]


def dilemma_class(gamble: Any, risk: Any) -> jax.Array:
    """[...] int32 index into `CLASSES`; -1 where D_g or D_s [...] is 0 (a border between classes)."""
    gamble, risk = jnp.asarray(gamble), jnp.asarray(risk)
    index = 2 * (gamble < 0).astype(jnp.int32) + (risk < 0).astype(jnp.int32)
    return jnp.where((gamble == 0) | (risk == 0), -1, index)


def symmetric_mixed(payoff: Any) -> jax.Array:
    """Probability of action 0 in the interior equilibrium of a symmetric 2x2 game, (P - S) / (R - S - T + P).

    Args:
      payoff: [2, 2, 2].
    Returns:
      x: [] float32 in (0, 1); NaN where there is no interior equilibrium.
    """
    gamble, risk = gamble_and_risk(payoff)
    inside = gamble * risk < 0
    return jnp.where(inside, risk / jnp.where(inside, risk - gamble, 1), jnp.nan)
