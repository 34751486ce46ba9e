"""Physics of the particle worlds: discs that are pushed, collide, and slow down in the plane.

Source: the multi-agent particle environments of Lowe et al. 2017 in three dialects that differ in numbers (spec
env_mpe.md sections 1 and 2): the fork used for the offline data of OMAR and CFCQL, the package mpe2 1.1.1, and JaxMARL 0.2.0.

Every function takes arrays with the bodies first and any further axes behind ([A] or [A, B]), so that a batch can be the
last axis (`marl_bench.envs.batch_last`). x and y are apart. Masses are 1. Nothing is random here, and there are no walls.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_COINCIDENT = np.float32(1e-24)
"""Squared distance below which two bodies count as coincident: they have no direction from each other."""


def per_body(groups: tuple[tuple[int, Any], ...], like: Array) -> Array:
    """Numbers of groups of bodies, one a body.

    Args:
      groups: (number of bodies, their value: [] or [...]).
      like: [A, ...] array whose trailing axes the result shall have.
    Returns:
      [sum of the numbers, ...] float32.
    """
    rows = [jnp.broadcast_to(jnp.asarray(value, jnp.float32), (count, *like.shape[1:])) for count, value in groups]
    return jnp.concatenate(rows)


def trailing(table: np.ndarray, like: Array, axes: int = 1) -> np.ndarray:
    """A constant table with axes of length 1 for the trailing axes of `like`, whose first `axes` are not trailing."""
    return table.reshape(table.shape + (1,) * (like.ndim - axes))


def softplus(z: Array) -> Array:
    """log(1 + exp(z)) without overflow."""
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


def differences(first: Array, second: Array) -> Array:
    """[P, Q, ...] `second` [Q, ...] minus `first` [P, ...]: where each q is, seen from each p, on one axis."""
    return second[None] - first[:, None]


def squared_distances(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """[P, Q, ...] squared distances between (x, y) [P, ...] and (x, y) [Q, ...]."""
    dx, dy = differences(first[0], second[0]), differences(first[1], second[1])
    return dx * dx + dy * dy


def root(squared: Array) -> Array:
    """Square root with derivative 0, instead of infinity, at 0."""
    return jnp.sqrt(jnp.maximum(squared, _COINCIDENT))


def contact(
    bodies: tuple[Array, Array], others: tuple[Array, Array] | None, reach: Array, force: Any, margin: Any
) -> tuple[Array, Array]:
    """Force on each body from those it collides with.

    A pair at distance r with reach r0 (the sum of the sizes) repels with force * margin * log(1 + exp((r0 - r) / margin)):
    almost nothing before they touch, then linear in the overlap. Coincident bodies do not push: they have no direction.

    Args:
      bodies: (x, y) [P, ...].
      others: (x, y) [Q, ...] of what they collide with; None for each other.
      reach: [P, Q, ...] or [...] sum of the two sizes.
      force: contact force K. margin: contact margin k, a length.
    Returns:
      (x, y) [P, ...] total force.
    """
    second = bodies if others is None else others
    dx, dy = -differences(bodies[0], second[0]), -differences(bodies[1], second[1])
    squared = dx * dx + dy * dy
    apart = squared > _COINCIDENT
    if others is None:
        # Not left to the comparison: where a multiplication is fused into the difference, x - x need not be exactly 0.
        apart &= trailing(~np.eye(bodies[0].shape[0], dtype=bool), squared, 2)
    distance = jnp.sqrt(jnp.where(apart, squared, 1))
    strength = force * margin * softplus((reach - distance) / margin) / distance
    strength = jnp.where(apart, strength, 0)
    return jnp.sum(strength * dx, axis=1), jnp.sum(strength * dy, axis=1)


def limited(vx: Array, vy: Array, max_speed: Array) -> tuple[Array, Array]:
    """Velocities (x, y) [A, ...] scaled down to `max_speed` [A, ...] where they exceed it."""
    squared = vx * vx + vy * vy
    over = squared > max_speed * max_speed
    scale = jnp.where(over, max_speed / jnp.sqrt(jnp.where(over, squared, 1)), 1)
    return vx * scale, vy * scale


def move(
    position: Array, velocity: Array, force: tuple[Array, Array], dt: Any, damping: Any, max_speed: Any, late: bool
) -> tuple[Array, Array]:
    """One time step of all bodies that can move.

    The old engine updates the velocity first and moves with the new one; the later two move with the old velocity, so
    there an action shows in the position one step later and the last action of an episode never does.

    Args:
      position: [A, 2, ...]. velocity: [A, 2, ...].
      force: (x, y) [A, ...], for mass 1.
      dt: length of the step. damping: share of the velocity that is lost.
      max_speed: [A, ...] or None for no limit.
      late: True to move with the old velocity (mpe2, JaxMARL), False with the new one (the old engine).
    Returns:
      position, velocity: both [A, 2, ...].
    """
    vx = velocity[:, 0] * (1 - damping) + force[0] * dt
    vy = velocity[:, 1] * (1 - damping) + force[1] * dt
    if max_speed is not None:
        vx, vy = limited(vx, vy, max_speed)
    renewed = jnp.stack([vx, vy], axis=1)
    return position + (velocity if late else renewed) * dt, renewed


def outside(z: Array) -> Array:
    """Penalty b(z) of a coordinate z = |x| [...] for leaving the arena.

    0 below 0.9, then 10 (z - 0.9) up to 1, then exp(2 z - 2) up to 10, which it reaches at z = 1 + log(10) / 2.
    """
    # The exponent is bounded so that its derivative stays finite far outside.
    far = jnp.minimum(jnp.exp(jnp.minimum(2 * z - 2, 2.5)), 10)
    return jnp.where(z < 0.9, 0, jnp.where(z < 1, 10 * (z - 0.9), far))


def skip_self(square: Array) -> Array:
    """[A, A - 1, ...] rows of `square` [A, A, ...] without the diagonal, the order kept."""
    count = square.shape[0]
    before = np.arange(count - 1)[None] < np.arange(count)[:, None]
    return jnp.where(trailing(before, square, 2), square[:, :-1], square[:, 1:])


def interleave(x: Array, y: Array) -> Array:
    """[P, 2 Q, ...] rows x_1, y_1, x_2, y_2, ... of x and y [P, Q, ...]."""
    return jnp.stack([x, y], axis=2).reshape(x.shape[0], 2 * x.shape[1], *x.shape[2:])


def seen_from(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """[P, 2 Q, ...] relative positions of (x, y) [Q, ...] for each of (x, y) [P, ...]."""
    return interleave(differences(first[0], second[0]), differences(first[1], second[1]))


def others_from(bodies: tuple[Array, Array]) -> Array:
    """[A, 2 (A - 1), ...] relative positions of the other bodies, in index order."""
    x, y = (skip_self(differences(axis, axis)) for axis in bodies)
    return interleave(x, y)


def pad(rows: Array, length: int) -> Array:
    """[P, length, ...] the rows [P, Q, ...] with zeros at the end."""
    missing = length - rows.shape[1]
    if missing == 0:
        return rows
    return jnp.concatenate([rows, jnp.zeros((rows.shape[0], missing, *rows.shape[2:]), rows.dtype)], axis=1)
