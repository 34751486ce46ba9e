"""Rules of `aggregation` as plain functions on arrays with the coordinates first, [D, N].

Everything is deterministic: noise is an argument. Source: spec swarm_envs.md section 4, a reconstruction of a task of Cui, Hauck,
Fabian and Koeppl 2024 (arXiv 2307.06175), whose own numbers could not be read.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def length(vectors: Array) -> Array:
    """[...] Euclidean lengths of vectors [D, ...], with derivative 0, instead of NaN, at 0."""
    squared = jnp.sum(jnp.square(vectors), axis=0)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def limited(push: Array) -> Array:
    """[D, N] controls clipped to [-1, 1], then scaled to length 1 where they are longer: no direction is faster."""
    push = jnp.clip(push, -1, 1)
    return push / jnp.maximum(1, length(push))


def moved(position: Array, velocity: Array, noise: Array, half_side: Any) -> Array:
    """[D, N] positions one step later, cut off at the walls of [-B, B]^D.

    Args:
      position, velocity, noise: [D, N] length, length a step, length.
      half_side: B.
    """
    return jnp.clip(position + velocity + noise, -half_side, half_side)


def spread(position: Array) -> Array:
    """[] mean distance of the agents from their mean, for positions [D, N]."""
    return jnp.mean(length(position - jnp.mean(position, axis=1, keepdims=True)))


def pairwise_distance(position: Array) -> Array:
    """[] (1/N^2) sum over i, j of the distance between i and j, for positions [D, N]."""
    return jnp.mean(length(position[:, :, None] - position[:, None, :]))


def neighbour_offset(position: Array, radius: Any) -> Array:
    """[D, N] mean offset of the other agents nearer than `radius`, seen from each agent; 0 where there are none."""
    offset = position[:, None, :] - position[:, :, None]
    near = neighbours(position, radius)
    return jnp.sum(jnp.where(near, offset, 0), axis=2) / jnp.maximum(1, jnp.sum(near, axis=1))


def neighbours(position: Array, radius: Any) -> Array:
    """[N, N] bool: which others are nearer to an agent than `radius`, from positions [D, N]."""
    squared = jnp.sum(jnp.square(position[:, None, :] - position[:, :, None]), axis=0)
    return (squared < radius * radius) & ~jnp.eye(position.shape[1], dtype=bool)
