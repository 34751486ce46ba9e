"""Parts of scripted policies that several grid worlds share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import ScriptedPolicy
from marl_bench.envs.grid import paths
from marl_bench.envs.grid.geometry import Terrain

Array = jax.Array

SLIP = 0.05
"""Probability of a random move: it frees agents that block each other."""


def from_state(act: Callable[[Any, Array], Array]) -> ScriptedPolicy:
    """The policy that acts by `act(state, key)`, [N] actions, whatever the agents see."""

    def policy(state: Any, observation: Any, key: Array) -> Array:
        del observation
        return act(state, key)

    return policy


def steps_from(avatars: Any, terrain: Terrain, table: np.ndarray) -> Array:
    """[N, M] int32 steps from each agent to each column of `table` [cells, M] (see `paths.distances`)."""
    here = avatars.row.astype(jnp.int32) * terrain.width + avatars.col
    return jnp.asarray(table)[here].astype(jnp.int32)


def unsteady(act: Callable[[Any, Array], Array], last: int = paths.TURN_RIGHT) -> ScriptedPolicy:
    """The policy that acts by `act(state, noise)`, [N] actions, but now and then (`SLIP`) makes a uniform move instead.

    Args:
      act: its `noise` is [N, 4] float32, uniform in [0, 1), as `paths.towards` wants it.
      last: the random moves are 1 ... `last`, each agent's on its own.
    """

    def steady_or_not(state: Any, key: Array) -> Array:
        key_noise, key_slip, key_random = jax.random.split(key, 3)
        count = state.avatars.row.shape[0]
        action = act(state, jax.random.uniform(key_noise, (count, 4)))
        random = jax.random.randint(key_random, (count,), paths.FORWARD, last + 1)
        return jnp.where(jax.random.uniform(key_slip, (count,)) < SLIP, random, action).astype(jnp.int32)

    return from_state(steady_or_not)
