"""Quantities of a swarm that are too dear, or too special, for the metrics of every step. Source: spec swarm_envs.md section 5.4."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.swarms import surfaces
from marl_bench.envs.swarms.surfaces import Place


def milling(surface: str, place: Place, side: Any) -> jax.Array:
    """[] |mean of r x e|, 0 ... 1: how much agents circle about their centre, r the direction from it and e the heading.

    Args:
      surface: where they are; on glued sides the centre is the circular mean.
      place: [N] agents in the chart. side: L.
    """
    glued = surface in surfaces.GLUED, surface in surfaces.GLUED_TOP
    centre = [_middle(along, side, round_) for along, round_ in zip((place.x, place.y), glued, strict=True)]
    there = Place(place.x, place.y, place.cos, place.sin)
    # From the centre, with heading 0, as every agent appears through its nearest image.
    eye = Place(centre[0], centre[1], jnp.float32(1), jnp.float32(0))
    seen = surfaces.sight(surface, eye, there, side)
    distance = jnp.sqrt(seen.squared)
    turning = jnp.where(distance > 0, (seen.dx * seen.sin - seen.dy * seen.cos) / jnp.maximum(distance, 1e-12), 0)
    return jnp.abs(jnp.mean(turning))


def _middle(along: jax.Array, side: Any, round_: bool) -> jax.Array:
    if not round_:
        return jnp.mean(along)
    angle = 2 * np.float32(np.pi) * along / side
    mean = jnp.arctan2(jnp.mean(jnp.sin(angle)), jnp.mean(jnp.cos(angle))) / (2 * np.float32(np.pi))
    return (mean % 1.0) * side


def components(neighbours: jax.Array) -> jax.Array:
    """[] int32: number of connected groups of agents, from who sees whom [N, N] (symmetric); for a few thousand agents."""
    count = neighbours.shape[0]
    linked = neighbours | jnp.eye(count, dtype=bool)

    def spread(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        label, _ = carry
        following = jnp.min(jnp.where(linked, label[None], count), axis=1)
        return following, jnp.any(following != label)

    label, _ = jax.lax.while_loop(lambda carry: carry[1], spread, (jnp.arange(count), jnp.bool_(True)))
    return jnp.sum(label == jnp.arange(count), dtype=jnp.int32)
