"""Units of a learned value: the running mean and scale of its targets (MAPPO's ValueNorm; Yu et al. 2022, section 5.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def updated(stats: jax.Array, target: jax.Array, decay: float = 0.99999) -> jax.Array:
    """Running [mean, mean square, weight] of targets, exponentially forgotten (MAPPO's ValueNorm; Yu et al. 2022)."""
    new = jnp.stack([jnp.mean(target), jnp.mean(jnp.square(target)), jnp.float32(1)])
    return decay * stats + (1.0 - decay) * new


def _mean_and_scale(stats: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight = jnp.maximum(stats[2], 1e-5)
    mean = stats[0] / weight
    return mean, jnp.sqrt(jnp.maximum(stats[1] / weight - jnp.square(mean), 1e-2))


def normalized(value: jax.Array, stats: jax.Array) -> jax.Array:
    """Rewards -> units of the running scale."""
    mean, scale = _mean_and_scale(stats)
    return (value - mean) / scale


def denormalized(value: jax.Array, stats: jax.Array) -> jax.Array:
    """Units of the running scale -> rewards; nothing is known before the first update, so values are then taken as they are."""
    mean, scale = _mean_and_scale(stats)
    return jnp.where(stats[2] > 0, value * scale + mean, value)
