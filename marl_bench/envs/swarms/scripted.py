"""Scripted policies of the swarms that steer; all but `couzin` are functions of the agents' own views alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.envs.swarms import surfaces
from marl_bench.envs.swarms.surfaces import Place

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


REPULSION, ORIENTATION = 0.2, 0.6
"""Radii of the two inner zones of `couzin`, as shares of the sensor's; the outermost ends with it."""

BLIND = -0.8
"""Cosine of the angle from the heading beyond which `couzin` does not see: about 143 degrees to either side."""


def couzin(env: Any, state: Any, observation: Any, key: jax.Array) -> jax.Array:
    """[N, D] the three zones of Couzin et al. 2002: away from whoever is too near; else along with those further off and to the rest.

    Alignment and attraction are averaged over their neighbours and added; all pairs are compared. Radii are ours.
    """
    del observation, key
    place = Place(state.x, state.y, jnp.cos(state.heading), jnp.sin(state.heading))
    eye, other = (Place(*(entry[index] for entry in place)) for index in ((slice(None), None), (None, slice(None))))
    seen = surfaces.sight(env.surface, eye, other, env.side)
    distance = jnp.sqrt(jnp.maximum(seen.squared, 1e-12))
    ahead = (seen.dx * eye.cos + seen.dy * eye.sin) / distance
    aside = (seen.dy * eye.cos - seen.dx * eye.sin) / distance
    visible = (distance < env.radius) & (ahead > BLIND) & ~jnp.eye(distance.shape[0], dtype=bool)
    near, middle = (visible & (distance < share * env.radius) for share in (REPULSION, ORIENTATION))

    def mean(zone: jax.Array, *vector: jax.Array) -> jax.Array:
        return jnp.stack([jnp.sum(jnp.where(zone, part, 0), axis=1) for part in vector]) / jnp.maximum(
            jnp.sum(zone, axis=1), 1
        )

    towards = mean(middle & ~near, seen.cos, seen.sin) + mean(visible & ~middle, ahead, aside)
    cos, sin = jnp.where(jnp.any(near, axis=1), -mean(near, ahead, aside), towards)
    # Across a mirroring seam left is right for whoever carries its own.
    hand = 1.0 if state.hand is None else state.hand
    return _with_speed(env, hand * jnp.clip(jnp.arctan2(sin, cos) / env.max_turn, -1, 1))


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
