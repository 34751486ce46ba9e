"""What a run of the common pool is judged by, from its catches and requests.

Source: Piatti et al. 2024 (GovSim). Efficiency and over-use are given as described in the paper; its published analysis
code does not contain them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from marl_bench.envs.social.metrics import equality


class PoolMetrics(NamedTuple):
    """Metrics of one episode, [] float32 each.

    Attributes:
      survival_time: rounds played until the collapse, or `horizon`.
      survived: 1 if the pool did not collapse within `horizon` rounds.
      total_gain: sum of all catches.
      equality: 1 - Gini of the agents' total catches.
      efficiency: 1 - max(0, horizon H / 2 - total gain) / (horizon H / 2).
      over_use: fraction of requests above the sustainable share.
    """

    survival_time: jax.Array
    survived: jax.Array
    total_gain: jax.Array
    equality: jax.Array
    efficiency: jax.Array
    over_use: jax.Array


def summarise(caught: Any, exceeded: Any, played: Any, collapsed: Any, capacity: Any) -> PoolMetrics:
    """Metrics of an episode that was recorded for `horizon` rounds.

    Args:
      caught: [T, N] catches of each round.
      exceeded: [T, N] bool, requests above the sustainable share.
      played: [T] bool, rounds that belong to the episode (those after a collapse do not).
      collapsed: [] bool. capacity: [] H.
    """
    mask = jnp.asarray(played, jnp.float32)[:, None]
    per_agent = jnp.sum(jnp.asarray(caught, jnp.float32) * mask, axis=0)
    rounds, num_agents = jnp.asarray(caught).shape
    total, best = jnp.sum(per_agent), rounds * jnp.asarray(capacity, jnp.float32) / 2
    requests = jnp.maximum(jnp.sum(mask), 1) * num_agents
    return PoolMetrics(
        survival_time=jnp.sum(mask),
        survived=1 - jnp.asarray(collapsed, jnp.float32),
        total_gain=total,
        equality=equality(per_agent)[0],
        efficiency=1 - jnp.maximum(0.0, best - total) / best,
        over_use=jnp.sum(jnp.asarray(exceeded, jnp.float32) * mask) / requests,
    )
