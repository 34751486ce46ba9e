"""Policies that need no training: uniform play, and the scripted ones that environments bring along."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.environment import Environment, Observation, ScriptedPolicy
from marl_bench.naming import nearest


def random_policy(env: Environment) -> ScriptedPolicy:
    """Uniform play: over each agent's legal actions, or over the box of a continuous action space.

    Args:
      env: environment whose `action_spec` has `num_values` [N] (discrete) or finite `minimum` and `maximum`.
    Returns:
      `policy(state, observation, key) -> actions`, [N] int32 or [N, D] float32; the state is not looked at.
    Raises:
      ValueError: for a continuous action space without finite bounds.
    """
    spec = env.action_spec
    if not hasattr(spec, "num_values"):
        low, high = np.float32(spec.minimum), np.float32(spec.maximum)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"{type(env.unwrapped).__name__}: action_spec has no finite bounds, so no uniform policy")
        return lambda state, observation, key: jax.random.uniform(key, spec.shape, spec.dtype, low, high)
    if len(spec.shape) != 1:
        return lambda state, observation, key: jax.random.randint(key, spec.shape, 0, np.asarray(spec.num_values))

    def policy(state: Any, observation: Observation, key: jax.Array) -> jax.Array:
        del state
        # The n-th legal action, n uniform below the number of legal ones.
        legal = observation.action_mask
        rank = jnp.cumsum(legal, axis=-1)
        pick = jnp.floor(jax.random.uniform(key, legal.shape[:-1]) * rank[..., -1]).astype(jnp.int32)
        return jnp.argmax(rank > pick[..., None], axis=-1).astype(jnp.int32)

    return policy


def scripted_policy(env: Environment, name: str = "scripted") -> ScriptedPolicy:
    """A policy by name: "random", "scripted" (the first that `env` brings along), or one of `env.scripted_policies()`.

    Raises:
      LookupError: for any other name, with those that exist.
    """
    known = env.scripted_policies()
    if name == "random":
        return random_policy(env)
    if name == "scripted" and known:
        return next(iter(known.values()))
    if name not in known:
        names = ["random", *known]
        raise LookupError(
            f"{type(env.unwrapped).__name__} has no policy {name!r}{nearest(name, names)} (known: {', '.join(names)})"
        )
    return known[name]
