"""Named payoff tables of two-player games and their closed forms.

Action 0 is the cooperative (first) action, action 1 the defecting (second) one. A payoff table is a tensor
[2, A, A]: entry [i, a, b] is agent i's payoff when agent 0 plays a and agent 1 plays b. Symmetric 2x2 games are
written with four letters: R (both cooperate), S (own cooperation, other's defection), T (own defection, other's
cooperation), P (both defect).

Sources: Axelrod 1984 (prisoner's dilemma); Foerster et al. 2018 (negative form); Leibo et al. 2021, Melting Pot
(stag hunt, chicken); Claus & Boutilier 1998 (climbing, penalty); Son et al. 2019, QTRAN (non-monotone); Nowak &
Sigmund 1993 and Press & Dyson 2012 (memory-one strategies); Taylor & Jonker 1978 (replicator); McKelvey & Palfrey
1995 (logit equilibrium).

Games with more than one state (the two-step game of QMIX) are not here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# --- payoff tables -----------------------------------------------------------------------------


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
        "climbing": common_payoff([[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
        "penalty": penalty(-100),
        "non_monotone": common_payoff([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]),
        "additive": common_payoff(np.add.outer([0, 1, 2], [0, 2, 4])),
    }


GAMES: Mapping[str, np.ndarray] = MappingProxyType(_named_games())
"""Name -> payoffs, float32 [2, A, A], read-only."""

# --- one-shot games ----------------------------------------------------------------------------


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


def replicator(x: Any, matrix: Any) -> jax.Array:
    """One-population replicator derivative x_i [(Ax)_i - x'Ax] (Taylor & Jonker 1978).

    Args:
      x: [A] shares of the actions. matrix: [A, A] own payoffs, own action first.
    Returns:
      derivative: [A] float32 per unit of time; sums to 0.
    """
    x = jnp.asarray(x, jnp.float32)
    values = jnp.asarray(matrix, jnp.float32) @ x
    return x * (values - x @ values)


def replicator_pair(x: Any, y: Any, row: Any, column: Any) -> tuple[jax.Array, jax.Array]:
    """Two-population replicator derivatives.

    Args:
      x: [A] shares in population 0. y: [B] shares in population 1.
      row: [A, B] payoffs of agent 0. column: [A, B] payoffs of agent 1.
    Returns:
      derivatives: [A] and [B] float32; each sums to 0.
    """
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    row_values = jnp.asarray(row, jnp.float32) @ y
    column_values = x @ jnp.asarray(column, jnp.float32)
    return x * (row_values - x @ row_values), y * (column_values - y @ column_values)


def policy_gradient(theta: Any, theta_other: Any, payoff: Any) -> jax.Array:
    """Exact gradient of agent 0's expected one-shot payoff in its own logit.

    dJ/dtheta = p(1-p) [q(R-T) + (1-q)(S-P)] with p = sigmoid(theta) the probability of action 0.

    Args:
      theta: [] own logit. theta_other: [] logit of agent 1. payoff: [2, 2, 2].
    Returns:
      gradient: [] float32, in units of payoff.
    """
    own = jnp.asarray(payoff, jnp.float32)[0]
    p, q = jax.nn.sigmoid(jnp.asarray(theta, jnp.float32)), jax.nn.sigmoid(jnp.asarray(theta_other, jnp.float32))
    return p * (1 - p) * (q * (own[0, 0] - own[1, 0]) + (1 - q) * (own[0, 1] - own[1, 1]))


def logit_equilibrium(payoff: Any, precision: Any) -> jax.Array:
    """Symmetric logit quantal-response equilibrium x = sigmoid(precision * advantage(x)), by bisection.

    With several fixed points (stag hunt at high precision) one of them is returned.

    Args:
      payoff: [2, 2, 2] of a symmetric game. precision: [] >= 0, the inverse temperature.
    Returns:
      x: [] float32 probability of action 0.
    """
    own = jnp.asarray(payoff, jnp.float32)[0]

    def halve(_: Any, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        x = (low + high) / 2
        advantage = x * (own[0, 0] - own[1, 0]) + (1 - x) * (own[0, 1] - own[1, 1])
        above = jax.nn.sigmoid(precision * advantage) > x
        return jnp.where(above, x, low), jnp.where(above, high, x)

    # 30 halvings of [0, 1] go beyond float32 resolution.
    low, high = jax.lax.fori_loop(0, 30, halve, (jnp.float32(0), jnp.float32(1)))
    return (low + high) / 2


# --- repeated games between memory-one strategies ----------------------------------------------


class MemoryOne(NamedTuple):
    """A strategy that looks one joint action back.

    Attributes:
      after: [4] probability of action 0 after CC, CD, DC, DD as (own, other).
      first: [] probability of action 0 in the first step.
    """

    after: Any
    first: Any = 1.0

    def act(self, observation: jax.Array, key: jax.Array, noise: Any = 0.0) -> jax.Array:
        """Draw actions from `MatrixGame`'s memory-one view.

        Args:
          observation: [..., 5] one-hot (start, CC, CD, DC, DD).
          key: [] typed PRNG key.
          noise: [] probability that the prescribed action flips.
        Returns:
          actions: [...] int32, 0 or 1.
        """
        table = jnp.concatenate([jnp.asarray(self.first, jnp.float32)[None], jnp.asarray(self.after, jnp.float32)])
        return 1 - jax.random.bernoulli(key, _trembling(observation @ table, noise)).astype(jnp.int32)


MEMORY_ONE: Mapping[str, MemoryOne] = MappingProxyType(
    {
        "ALLC": MemoryOne((1.0, 1.0, 1.0, 1.0)),
        "ALLD": MemoryOne((0.0, 0.0, 0.0, 0.0), 0.0),
        "TFT": MemoryOne((1.0, 0.0, 1.0, 0.0)),
        "WSLS": MemoryOne((1.0, 0.0, 0.0, 1.0)),
        "GRIM": MemoryOne((1.0, 0.0, 0.0, 0.0)),
        "GTFT": MemoryOne((1.0, 1 / 3, 1.0, 1 / 3)),
        "RAND": MemoryOne((0.5, 0.5, 0.5, 0.5), 0.5),
        "EXT3": MemoryOne((11 / 13, 1 / 2, 7 / 26, 0.0)),
    }
)
"""Always cooperate, always defect, tit for tat, win-stay lose-shift, grim trigger, generous tit for tat, random, and
the zero-determinant strategy that extorts a factor of 3 in Axelrod's prisoner's dilemma."""


def _trembling(probability: Any, noise: Any) -> Any:
    return probability * (1 - noise) + (1 - probability) * noise


def memory_one_transitions(p: Any, q: Any) -> jax.Array:
    """Markov matrix of the joint outcome when two memory-one strategies meet.

    Args:
      p: [4] agent 0's probabilities of action 0 after CC, CD, DC, DD from its own side.
      q: [4] the same for agent 1, from agent 1's own side.
    Returns:
      matrix: [4, 4] float32, row = outcome before, column = outcome after, both as agent 0 sees them.
    """
    p = jnp.asarray(p, jnp.float32)
    q = jnp.asarray(q, jnp.float32).reshape(2, 2).T.reshape(4)
    return jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], axis=-1)


def memory_one_payoffs(
    p: Any, q: Any, payoff: Any, discount: Any = None, p0: Any = 1.0, q0: Any = 1.0, noise: Any = 0.0
) -> jax.Array:
    """Mean payoff per step of two memory-one strategies, by one linear solve (works under jit and vmap).

    Discounted: (1 - g) u'(I - gM)^-1 f, with u the distribution of the first outcome. Stationary (`discount` None): the
    left eigenvector of M; it is unique only with one recurrent class, which any `noise` in (0, 1) guarantees.

    Args:
      p: [4] agent 0's probabilities of action 0 after CC, CD, DC, DD from its own side.
      q: [4] agent 1's, from agent 1's own side.
      payoff: [2, 2, 2].
      discount: [] g in [0, 1), or None for the stationary mean. Divide by 1 - g for the discounted sum.
      p0: [] agent 0's first move (probability of action 0); read only with a discount. q0: agent 1's.
      noise: [] probability that a prescribed action flips, also in the first step.
    Returns:
      payoffs: [2] float32, of agent 0 and agent 1. Not finite where the stationary mean is not unique.
    """
    p, q = (_trembling(jnp.asarray(value, jnp.float32), noise) for value in (p, q))
    matrix = memory_one_transitions(p, q)
    outcome_payoffs = jnp.asarray(payoff, jnp.float32).reshape(2, 4)
    identity = jnp.eye(4, dtype=jnp.float32)
    if discount is None:
        system = (identity - matrix).T.at[-1].set(1.0)
        return outcome_payoffs @ jnp.linalg.solve(system, identity[-1])
    p0, q0 = _trembling(jnp.asarray(p0, jnp.float32), noise), _trembling(jnp.asarray(q0, jnp.float32), noise)
    first = jnp.stack([p0 * q0, p0 * (1 - q0), (1 - p0) * q0, (1 - p0) * (1 - q0)])
    visits = jnp.linalg.solve((identity - discount * matrix).T, first)
    return (1 - discount) * (outcome_payoffs @ visits)
