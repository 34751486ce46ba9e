"""Replay of single transitions: a ring of the last R steps of B environments.

The ring lies in the training state, so a checkpoint holds it. Steps are written T at a time; R is a multiple of T, so a write never
straddles the end. What is not yet written is zero and is never drawn.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench import sharding
from marl_bench.algorithms.rollout import Steps

Stored = TypeVar("Stored")
"""Any pytree with leaves [R, B, ...]: a ring may keep other things, too."""


@struct.dataclass
class Transitions:
    """Transitions of N agents: leaves [R, B, N, ...] in the ring, and agents first, [N, n, ...], in a sample.

    Attributes:
      view: [R, B, N, ...] or [N, n, ...]. next_view: of the true successor.
      state: [R, B, S] or [n, S] global state, or None. next_state: of the true successor.
      action: [R, B, N, D] or [N, n, D] float32.
      reward: [R, B, N] or [N, n]. discount: the same, 0 where the game ended.
    """

    view: jax.Array
    state: jax.Array | None
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_view: jax.Array
    next_state: jax.Array | None


def of_steps(steps: Steps) -> Transitions:
    """Leaves [T, B, ...]; the action is what the acting function returned besides (`Steps.extra`)."""
    return Transitions(
        view=steps.view,
        state=steps.state,
        action=steps.extra,
        reward=steps.reward,
        discount=steps.discount,
        next_view=steps.next_view,
        next_state=steps.next_state,
    )


def empty(steps: Stored, rows: int) -> Stored:
    """Zeros [R, B, ...].

    Args:
      steps: leaves [T, B, ...], arrays or their shapes (`jax.eval_shape`). rows: R, a multiple of T.
    """
    return jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), steps)


def write(ring: Stored, steps: Stored, count: jax.Array) -> Stored:
    """Store steps [T, B, ...] over the oldest ones. `count`: [] int32, how many times T steps were written before."""

    def store(stored: jax.Array, new: jax.Array) -> jax.Array:
        place = count % (stored.shape[0] // new.shape[0]) * new.shape[0]
        return jax.lax.dynamic_update_slice_in_dim(stored, new, place, axis=0)

    return jax.tree.map(store, ring, steps)


def draw(ring: Stored, key: jax.Array, rows: jax.Array, size: int) -> Stored:
    """Entries [n, ...] drawn uniformly from those written, with replacement.

    Args:
      ring: leaves [R, B, ...]. key: [] typed PRNG key.
      rows: [] int32, rows written so far; more than R means that all of the ring is filled.
      size: n.
    """
    length, copies = jax.tree.leaves(ring)[0].shape[:2]
    places = jax.random.randint(key, (size,), 0, jnp.minimum(rows, length) * copies)
    # Two indices: were the axes joined, a ring whose environments are on several devices would have to be moved.
    at = (places // copies, places % copies)
    return sharding.drawn(jax.tree.map(lambda leaf: leaf.at[at].get(mode="promise_in_bounds"), ring))


def sample(ring: Transitions, key: jax.Array, rows: jax.Array, size: int) -> Transitions:
    """Transitions as `draw` gives them, agents first."""
    drawn = draw(ring, key, rows, size)
    by_agent: Any = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), drawn)
    return dataclasses.replace(by_agent, state=drawn.state, next_state=drawn.next_state)
