"""Scripted policies of the swarms that steer: functions of the agents' own views alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

GAIN = 3.0
"""Of `gentle`, per unit of the neighbours' mean sine."""


def steer(env: Any, state: Any, observation: Any, key: jax.Array) -> jax.Array:
    """[N, D] turn to the neighbours' mean heading within a step, as far as that goes; straight on when alone."""
    del state, key
    cos, sin = _seen(env, observation)
    return _with_speed(env, jnp.clip(jnp.arctan2(sin, cos) / env.max_turn, -1, 1))


def gentle(env: Any, state: Any, observation: Any, key: jax.Array) -> jax.Array:
    """[N, D] turn in proportion to the neighbours' mean sine."""
    del state, key
    return _with_speed(env, jnp.clip(GAIN * _seen(env, observation)[1], -1, 1))


def straight(env: Any, state: Any, observation: Any, key: jax.Array) -> jax.Array:
    """[N, D] never turn."""
    del state, key
    return _with_speed(env, jnp.zeros(observation.agents_view.shape[0]))


STEERING = {"steer": steer, "gentle": gentle, "straight": straight}


def _seen(env: Any, observation: Any) -> tuple[jax.Array, jax.Array]:
    """Mean cosine and sine of the neighbours' relative headings, from whatever the sensor shows."""
    view = observation.agents_view
    if env.sensor != "sectors":
        return view[:, 0], view[:, 1]
    angle = 2 * jnp.pi * (jnp.arange(env.sectors) + 0.5) / env.sectors
    share = view[:, : env.sectors]
    return share @ jnp.cos(angle), share @ jnp.sin(angle)


def _with_speed(env: Any, turn: jax.Array) -> jax.Array:
    """Actions [N, D] with full speed where there is a choice."""
    columns = env.action_spec.shape[1]
    return jnp.concatenate([turn[:, None], jnp.ones((turn.shape[0], columns - 1))], axis=1)
