"""Rules of `equal_line` on plain arrays: moves, the smallest gap, the reward.

Source: the discrete environments of the published code of Shao et al. 2023, *Counterfactual Conservative Q Learning for
Offline Multi-agent Reinforcement Learning* (CFCQL).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DISPLACEMENTS = np.array([0.0, -0.01, -0.05, -0.1, -0.5, -1.0, 0.01, 0.05, 0.1, 0.5, 1.0], np.float32)
"""Displacement of each of the 11 actions, in units of length."""

START = 2.0
"""Agents start uniformly in [0, START)."""


def length(num_agents: int) -> float:
    """Length L of the segment, max(10, 2n)."""
    return float(max(10, 2 * num_agents))


def move(x: jax.Array, actions: jax.Array) -> jax.Array:
    """[n] positions after actions [n] (legal integers); agents pass through each other and stop at the ends."""
    # Compare and sum rather than gather: it fuses under vmap.
    chosen = actions[:, None] == np.arange(len(DISPLACEMENTS))
    return jnp.clip(x + jnp.sum(jnp.where(chosen, DISPLACEMENTS, np.float32(0)), axis=1), 0.0, length(x.shape[0]))


def smallest_gap(x: jax.Array) -> jax.Array:
    """[] smallest distance between two of the positions [n]."""
    # All pairs rather than a sort: it fuses under vmap, and n is small. The minimum is the same number.
    apart = jnp.abs(x[:, None] - x[None, :])
    return jnp.min(jnp.where(np.eye(x.shape[0], dtype=bool), np.float32(np.inf), apart))


def reward(gap: Any, last_gap: Any, num_agents: int) -> Any:
    """Team reward 10 (n - 1) / L * (gap - last gap): over an episode it sums to 10 (n - 1) g_T / L, at most 10."""
    return np.float32(10 * (num_agents - 1) / length(num_agents)) * (gap - last_gap)
