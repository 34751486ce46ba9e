"""Roll-outs of the online learners: T steps of B environments as arrays [T, B, N, ...].

Episodes restart inside (`VectorEnvironment`); what ended is kept apart from what followed: `next_view` and `next_state` are the
true successors of the actions, `is_first` says *before* a step whether its view starts an episode (so memories are cleared
there), `is_last` whether the step ended one, and `discount` whether that end was the game's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.environment import Environment, Observation
from marl_bench.vector import VectorEnvironment


@struct.dataclass
class World:
    """Where B environments and their agents stand.

    Attributes:
      inner: `VectorState`.
      observation: `Observation` with leaves [B, ...].
      state: [B, S] float32 global states, or None.
      is_first: [B] bool, whether the observation starts an episode.
      memory: the agents' memories, leaves [B, N, ...].
      returns: [B, N] float32, reward of the running episodes so far.
      finished: [] float32, mean over agents of the return of the episodes that ended last (0 before any did).
    """

    inner: Any
    observation: Observation
    state: jax.Array | None
    is_first: jax.Array
    memory: Any
    returns: jax.Array
    finished: jax.Array


@struct.dataclass
class Steps:
    """Steps of B environments with N agents, leaves [T, B, ...].

    Attributes:
      view: [T, B, N, ...] what was acted on. mask: [T, B, N, A] legal actions.
      state: [T, B, S] global state, or None.
      is_first: [T, B] bool.
      action: [T, B, N] int32 or [T, B, N, D] float32.
      reward: [T, B, N]. discount: [T, B, N]. is_last: [T, B] bool.
      next_view, next_mask, next_state: of the true successors.
      extra: whatever the acting function returned besides, leaves [T, B, ...].
    """

    view: jax.Array
    mask: jax.Array
    state: jax.Array | None
    is_first: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    is_last: jax.Array
    next_view: jax.Array
    next_mask: jax.Array
    next_state: jax.Array | None
    extra: Any


Act = Callable[[Observation, jax.Array, Any, Any], tuple[jax.Array, Any, Any]]
"""`act(observation, is_first, memory, noise) -> (actions, memory, extra)`, all with a leading axis of B environments."""


def vector_environment(env: Environment, num_envs: int, num_steps: int, with_state: bool) -> VectorEnvironment:
    """B copies with, where starts come from a pool, one start for 16 steps of a roll-out."""
    pool_size = max(2 * num_envs, num_envs * num_steps // 16)
    return VectorEnvironment(env, num_envs, pool_size=pool_size, with_global_state=with_state)


def start(vector: VectorEnvironment, memory: Any, key: jax.Array) -> World:
    """Reset all environments. `memory`: leaves [N, ...], of the start of one episode. `key`: [] typed PRNG key."""
    inner, timestep = vector.reset(key)
    memory = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (vector.num_envs, *leaf.shape)), memory)
    return World(
        inner=inner,
        observation=timestep.observation,
        state=timestep.extras.get("global_state"),
        is_first=timestep.extras["is_first"],
        memory=memory,
        returns=jnp.zeros_like(timestep.reward),
        finished=jnp.float32(0),
    )


def collect(vector: VectorEnvironment, world: World, act: Act, noise: Any) -> tuple[World, Steps, dict[str, jax.Array]]:
    """Play T steps.

    Args:
      vector: from `vector_environment`.
      world: from `start` or the last call.
      act: chooses the actions.
      noise: random numbers for `act`, leaves [T, B, ...], drawn in one go.
    Returns:
      world, `Steps`, and metrics: means of the environment's metrics over all steps, `reward` (mean over agents and steps) and
      `episode_return` (mean over agents; of the episodes that ended in the last step in which any did).
    """

    def step(world: World, noise: Any) -> tuple[World, tuple[Steps, dict[str, jax.Array]]]:
        actions, memory, extra = act(world.observation, world.is_first, world.memory, noise)
        inner, timestep = vector.step(world.inner, actions)
        is_last, extras = timestep.last(), timestep.extras
        successor = extras["final_observation"]
        steps = Steps(
            view=world.observation.agents_view,
            mask=world.observation.action_mask,
            state=world.state,
            is_first=world.is_first,
            action=actions,
            reward=timestep.reward,
            discount=timestep.discount,
            is_last=is_last,
            next_view=successor.agents_view,
            next_mask=successor.action_mask,
            next_state=extras.get("final_global_state"),
            extra=extra,
        )
        returns = world.returns + timestep.reward
        ended = jnp.sum(is_last)
        mean = jnp.sum(jnp.where(is_last[:, None], returns, 0.0)) / (jnp.maximum(ended, 1) * returns.shape[1])
        following = World(
            inner=inner,
            observation=timestep.observation,
            state=extras.get("global_state"),
            is_first=is_last,
            memory=memory,
            returns=jnp.where(is_last[:, None], 0.0, returns),
            finished=jnp.where(ended > 0, mean, world.finished),
        )
        metrics = {name: jnp.mean(value) for name, value in extras["metrics"].items()}
        return following, (steps, {**metrics, "reward": jnp.mean(timestep.reward)})

    world, (steps, metrics) = jax.lax.scan(step, world, noise)
    world = world.replace(inner=vector.refresh(world.inner))  # pyright: ignore[reportAttributeAccessIssue]
    return world, steps, {**jax.tree.map(jnp.mean, metrics), "episode_return": world.finished}
