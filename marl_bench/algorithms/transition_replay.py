"""Replay of whole transitions, for any discrete environment: a ring of the last steps.

Termination and truncation are kept apart: `discount` is 0 only where the game ended, `last` cuts n-step windows
at either kind of end, and `next_view` is always the episode's own next observation, never the restarted one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Transitions:
    """One step of B environments with N agents, or (leading axis) a ring of them.

    Attributes:
      view: [B, N, ...] observation acted on.
      action: [B, N] int32.
      reward: [B, N] float32.
      discount: [B, N] float32, 0 at termination.
      last: [B] bool, the episode ended with this step.
      next_view: [B, N, ...] observation after the step.
      next_mask: [B, N, A] bool, legal actions after the step.
    """

    view: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    last: jax.Array
    next_view: jax.Array
    next_mask: jax.Array


@struct.dataclass
class Sample:
    """n-step transitions, each entry for one sampled (environment, agent, step).

    Attributes:
      view: [n, ...]; action: [n] int32.
      reward: [n] float32, discounted sum over the window.
      discount: [n] float32, factor of the bootstrap value (0 after termination).
      next_view: [n, ...]; next_mask: [n, A] bool.
    """

    view: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_view: jax.Array
    next_mask: jax.Array


def init(example: Transitions, num_steps: int) -> Transitions:
    """An empty ring: explicit zeros of shape [num_steps, ...] like `example`."""
    return jax.tree.map(lambda leaf: jnp.zeros((num_steps, *leaf.shape), leaf.dtype), example)


def add(ring: Transitions, step: Transitions, time: jax.Array) -> Transitions:
    """Store the transitions of step `time` [] int32, overwriting the oldest."""
    row = time % ring.action.shape[0]
    return jax.tree.map(lambda stored, new: stored.at[row].set(new), ring, step)


def sample(
    ring: Transitions,
    age: jax.Array,
    env: jax.Array,
    agent: jax.Array,
    newest: jax.Array,
    n_step: int,
    discount: jax.Array | float,
) -> Sample:
    """Build n-step transitions.

    A window ends after n steps or at the episode's end; where neither lies within what is stored, the 1-step
    transition is used instead.

    Args:
      age: [n] int32, steps before the newest stored one; env: [n] int32; agent: [n] int32.
      newest: [] int32, time of the newest stored step.
      n_step: longest window.
      discount: gamma.
    """
    rows = ring.action.shape[0]
    ages = age[None] - jnp.arange(n_step, dtype=jnp.int32)[:, None]  # [n_step, samples]
    stored = ages >= 0
    row = (newest - jnp.maximum(ages, 0)) % rows
    last = ring.last[row, env[None]] & stored
    reached = jnp.cumsum(last, axis=0)
    complete = (age >= n_step - 1) | (reached[-1] > 0)
    # Step k belongs to the window while no earlier step ended the episode; incomplete windows keep step 0 only.
    inside = (reached - last == 0) & stored & (complete[None] | (jnp.arange(n_step)[:, None] == 0))
    reward = ring.reward[row, env[None], agent[None]]
    powers = jnp.power(jnp.asarray(discount, jnp.float32), jnp.arange(n_step, dtype=jnp.float32))[:, None]
    length = jnp.sum(inside, axis=0)
    final = jnp.take_along_axis(row, (length - 1)[None], axis=0)[0]
    return Sample(
        view=ring.view[row[0], env, agent],
        action=ring.action[row[0], env, agent],
        reward=jnp.sum(jnp.where(inside, powers * reward, 0.0), axis=0),
        discount=jnp.power(jnp.asarray(discount, jnp.float32), length) * ring.discount[final, env, agent],
        next_view=ring.next_view[final, env, agent],
        next_mask=ring.next_mask[final, env, agent],
    )
