"""Scripted policies of the common pool: each maps the state to wanted amounts [N].

`sustainable` asks for what regrows; `greedy` for an equal part of everything; `planner` is sustainable until the last round
and then takes all; `grim` is sustainable until a catch was above the share, then greedy for ever; `punisher` adds to the
share what the others took above it in the last round, on average.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.envs.common_pool import rules


def _equal(amount: jax.Array, state: Any) -> jax.Array:
    return jnp.broadcast_to(amount, state.last_caught.shape)


def sustainable(state: Any, horizon: int) -> jax.Array:
    """[N] the sustainable share of the present stock."""
    del horizon
    return _equal(rules.sustainable_share(state.stock, state.last_caught.shape[0]), state)


def greedy(state: Any, horizon: int) -> jax.Array:
    """[N] an equal part of the whole stock."""
    del horizon
    return _equal(state.stock / state.last_caught.shape[0], state)


def planner(state: Any, horizon: int) -> jax.Array:
    """[N] sustainable, but everything in the last round: the best play against doubling within the horizon."""
    last = state.step_count >= horizon - 1
    return jnp.where(last, greedy(state, horizon), sustainable(state, horizon))


def grim(state: Any, horizon: int) -> jax.Array:
    """[N] sustainable until somebody caught more than the share, greedy ever after."""
    return jnp.where(state.broken, greedy(state, horizon), sustainable(state, horizon))


def punisher(state: Any, horizon: int) -> jax.Array:
    """[N] the share and what the others took above it in the last round, on average; never above an equal part."""
    num_agents = state.last_caught.shape[0]
    excess = jnp.maximum(state.last_caught - state.last_share, 0.0)
    others = (jnp.sum(excess) - excess) / (num_agents - 1)
    return jnp.minimum(sustainable(state, horizon) + others, greedy(state, horizon))


AMOUNTS = {
    "sustainable": sustainable,
    "cooperate": sustainable,
    "defect": greedy,
    "greedy": greedy,
    "planner": planner,
    "grim": grim,
    "punisher": punisher,
}
"""Name -> wanted amounts [N] of (state, horizon)."""
