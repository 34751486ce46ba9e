"""Closed forms of dilemmas of n agents: Schelling curves, mixed equilibria, planner and Nash use of a commons.

Sources: Schelling 1973 (curves); Ledyard 1995 (linear public goods); Diekmann 1985 (volunteer's dilemma); Gordon 1954
(commons); Souza, Pacheco & Santos 2009 (n-player snowdrift).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def linear_schelling_curves(others: Any, players: Any, multiplier: Any, endowment: Any = 1.0, cost: Any = 1.0) -> Any:
    """Payoffs of a contributor and of a free-rider in linear public goods, by the number of contributing others.

    R_c(l) = e - c + r c (l + 1) / n and R_d(l) = e + r c l / n: parallel lines, c (1 - r/n) apart.

    Args:
      others: [...] l, contributors among the other n - 1 agents.
      players: n. multiplier: r. endowment: e. cost: c, size of one contribution.
    Returns:
      contribute: [...] float32, free_ride: [...] float32.
    """
    others = jnp.asarray(others, jnp.float32)
    share = multiplier * cost / players
    return endowment - cost + share * (others + 1), endowment + share * others


class Volunteers(NamedTuple):
    """Symmetric mixed equilibrium of the volunteer's dilemma.

    Attributes:
      defect: [] probability that an agent does not volunteer, (c/b)^(1/(n-1)).
      nobody: [] probability that nobody does, (c/b)^(n/(n-1)).
      value: [] expected payoff of an agent, b - c.
    """

    defect: jax.Array
    nobody: jax.Array
    value: jax.Array


def volunteers_equilibrium(players: Any, benefit: Any, cost: Any) -> Volunteers:
    """Equilibrium of the volunteer's dilemma with `players` >= 2 and benefit > cost > 0."""
    ratio = jnp.asarray(cost, jnp.float32) / benefit
    exponent = 1.0 / (players - 1)
    return Volunteers(ratio**exponent, ratio ** (players * exponent), jnp.asarray(benefit - cost, jnp.float32))


class Commons(NamedTuple):
    """Use and payoff of each agent in the one-round commons with capacity U per agent.

    Attributes:
      nash: [] symmetric equilibrium use, n U / (n + 1). nash_payoff: [] n U / (n + 1)^2.
      planner: [] use that maximises the sum, U / 2. planner_payoff: [] U / 4.
    """

    nash: jax.Array
    nash_payoff: jax.Array
    planner: jax.Array
    planner_payoff: jax.Array


def commons_uses(players: Any, capacity: Any) -> Commons:
    """Equilibrium and optimum of u_i (1 - sum u / (n U)) with n = `players` and U = `capacity`."""
    n, capacity = jnp.asarray(players, jnp.float32), jnp.asarray(capacity, jnp.float32)
    return Commons(n * capacity / (n + 1), n * capacity / (n + 1) ** 2, capacity / 2, capacity / 4)


def snowdrift_equilibrium(players: int, benefit: Any, cost: Any) -> jax.Array:
    """Probability of cooperation in the symmetric mixed equilibrium of the n-player snowdrift game, by bisection.

    A cooperator gains b (1-x)^(n-1) over a defector (the benefit that only it provides) and pays c (1 - (1-x)^n) / (n x)
    on average; divided by (1-x)^(n-1) the difference falls in x, so there is one root.

    Args:
      players: n >= 2. benefit: [] b. cost: [] c, with b > c > 0.
    Returns:
      x: [] float32 in (0, 1).
    """

    def advantage(x: jax.Array) -> jax.Array:
        defect = 1 - x
        # (1 - d^n) / (n x) without the cancellation at small x: the mean of d^0 ... d^(n-1).
        mean_share = jnp.mean(defect ** jnp.arange(players, dtype=jnp.float32))
        return benefit * defect ** (players - 1) - cost * mean_share

    def halve(_: Any, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        x = (low + high) / 2
        above = advantage(x) > 0
        return jnp.where(above, x, low), jnp.where(above, high, x)

    low, high = jax.lax.fori_loop(0, 30, halve, (jnp.float32(0), jnp.float32(1)))
    return (low + high) / 2
