"""Learning dynamics in closed form, to test learners against: replicator, policy gradient, logit and Boltzmann fixed points.

Sources: Taylor & Jonker 1978 (replicator); McKelvey & Palfrey 1995 (logit equilibrium); Singh, Kearns & Mansour 2000
(gradient ascent in two-action games).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


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


def boltzmann_q(payoff: Any, temperature: Any, discount: Any = 0.0) -> tuple[jax.Array, jax.Array]:
    """Where two independent Q-learners with Boltzmann exploration rest in expectation, in a symmetric 2x2 game.

    Stateless Q_a = r(a, pi) + g sum_b pi_b Q_b with pi = softmax(Q / temperature). The discount shifts both values
    alike, so pi is the logit equilibrium of precision 1 / temperature.

    Args:
      payoff: [2, 2, 2]. temperature: [] > 0, in units of payoff. discount: [] g in [0, 1).
    Returns:
      values: [2] float32, Q of actions 0 and 1. policy: [2] float32.
    """
    cooperate = logit_equilibrium(payoff, 1.0 / jnp.asarray(temperature, jnp.float32))
    policy = jnp.stack([cooperate, 1 - cooperate])
    rewards = jnp.asarray(payoff, jnp.float32)[0] @ policy
    return rewards + discount / (1 - discount) * (policy @ rewards), policy


def constant_advantage_share(share: Any, advantage: Any, time: Any) -> jax.Array:
    """Replicator solution of a two-action game in which action 0 always earns `advantage` more than action 1.

    logit x(t) = logit x(0) + advantage * t. Donation game: advantage -D_r; linear public goods: r/n - 1. This is also the
    expected flow of a natural policy gradient.

    Args:
      share: [...] x(0) in (0, 1). advantage: [...] payoff. time: [...] >= 0.
    Returns:
      x: [...] float32.
    """
    share = jnp.asarray(share, jnp.float32)
    return jax.nn.sigmoid(jnp.log(share) - jnp.log1p(-share) + advantage * time)


def pennies_invariant(x: Any, y: Any) -> jax.Array:
    """x(1-x)y(1-y), conserved by two-population replicator flow in matching pennies; x, y: [...] shares of action 0."""
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    return x * (1 - x) * y * (1 - y)


def share_product(shares: Any) -> jax.Array:
    """x_1 x_2 x_3 [...], conserved by one-population replicator flow in zero-sum rock-paper-scissors; shares: [..., 3]."""
    return jnp.prod(jnp.asarray(shares, jnp.float32), axis=-1)


def pennies_step_growth(step_size: Any) -> jax.Array:
    """Factor sqrt(1 + 16 s^2) by which one simultaneous gradient step of size s grows the distance to (1/2, 1/2).

    On the bilinear form 4uv of matching pennies, u = x - 1/2 and v = y - 1/2: plain gradient play diverges.
    """
    return jnp.sqrt(1 + 16 * jnp.asarray(step_size, jnp.float32) ** 2)
