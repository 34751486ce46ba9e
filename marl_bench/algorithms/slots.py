"""Who shares parameters with whom: one map `agent -> parameter slot` for all learners.

Parameters have a leading axis of G slots. `over_agents` runs a function of one agent for all of them, each with the
parameters of its slot; with one slot this is one batched product, not N.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.algorithms.equations import AdamState, adamw, adamw_init, clip_by_global_norm, global_norm
from marl_bench.algorithms.networks import Network
from marl_bench.environment import Environment

SHARING = ("shared", "independent", "types")


def slot_of_agent(sharing: str, groups: tuple[int, ...] | None, env: Environment) -> tuple[int, ...]:
    """[N] slot of each agent, numbered from 0.

    Args:
      sharing: "shared", "independent", or "types" (agents of one type share; see `Environment.agent_types`).
      groups: slot of each agent; overrides `sharing`.
      env: the world.
    Raises:
      ValueError: when `groups` does not have one entry an agent, or its slots are not 0, 1, ... without a gap.
    """
    if groups is not None:
        if len(groups) != env.num_agents:
            raise ValueError(f"groups={groups}: must have {env.num_agents} entries, one an agent of this world")
        if sorted(set(groups)) != list(range(max(groups) + 1)):
            raise ValueError(f"groups={groups}: the slots must be 0, 1, ... without a gap")
        return tuple(groups)
    if sharing == "shared":
        return (0,) * env.num_agents
    if sharing == "independent":
        return tuple(range(env.num_agents))
    return tuple(int(slot) for slot in np.unique(env.agent_types, return_inverse=True)[1])


def num_slots(slots: tuple[int, ...]) -> int:
    """G."""
    return max(slots) + 1


def over_agents(function: Callable[..., Any], slots: tuple[int, ...] | jax.Array, axis: int = 0) -> Callable[..., Any]:
    """Map a function of one agent over all agents.

    Args:
      function: (params, *arrays) -> arrays, for one agent.
      slots: [N], from `slot_of_agent`; or as an array.
      axis: where the agents stand in the arrays, and in the results.
    Returns:
      (params with a leading axis of G slots, *arrays with an axis of N agents) -> arrays with an axis of N agents.
    """

    def mapped(params: Any, *arrays: Any) -> Any:
        batched = (axis,) * len(arrays)
        if jax.tree.leaves(params)[0].shape[0] == 1:
            one = jax.tree.map(lambda leaf: leaf[0], params)
            return jax.vmap(function, (None, *batched), axis)(one, *arrays)
        if not isinstance(slots, tuple) or slots != tuple(range(len(slots))):
            params = jax.tree.map(lambda leaf: leaf[jnp.asarray(slots)], params)
        return jax.vmap(function, (0, *batched), axis)(params, *arrays)

    return mapped


def weights(slots: tuple[int, ...]) -> jax.Array:
    """[N] float32: one over the number of agents in each agent's slot.

    A sum over agents with these weights is the sum over slots of the mean within each, so a slot learns as if alone.
    """
    counts = np.bincount(slots)
    return jnp.asarray((1.0 / counts)[np.asarray(slots)], jnp.float32)


def step(
    network: Network,
    agents: tuple[int, ...] | jax.Array,
    params: Any,
    memory: jax.Array,
    view: jax.Array,
    extra: jax.Array,
    is_first: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Memories [N, H] and outputs [N, K] of N agents after one step from memory [N, H] and views [N, ...]; `is_first`: []."""
    one = lambda params, memory, view, extra: network.apply(params, memory, view, is_first, extra)  # noqa: E731
    return over_agents(one, agents)(params, memory, view, extra)


def unroll(
    network: Network,
    agents: tuple[int, ...] | jax.Array,
    params: Any,
    memory: jax.Array,
    view: jax.Array,
    extra: jax.Array,
    is_first: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Memories [N, T, H] and outputs [N, T, K] of N agents from memory [N, H], views [N, T, ...] and `is_first` [T]."""
    one = lambda params, memory, view, extra: network.unroll(params, memory, view, is_first, extra)  # noqa: E731
    return over_agents(one, agents)(params, memory, view, extra)


def unroll_rows(
    network: Network,
    agents: tuple[int, ...],
    params: Any,
    memory: jax.Array,
    view: jax.Array,
    extra: jax.Array,
    is_first: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Many sequences, time in front, as one batch: what `unroll` does under `vmap`, with a faster gradient.

    Args:
      memory: [R, N, H]. view: [T, R, N, ...]. extra: [N, E] or [T, R, N, E]. is_first: [T, R].
    Returns:
      memories: [T, R, N, H] after each step, and outputs: [T, R, N, K].
    """
    shape = view.shape[:3]
    extra = jnp.broadcast_to(extra, (*shape, extra.shape[-1]))
    if jax.tree.leaves(params)[0].shape[0] > 1:
        one = lambda params, memory, view, extra: network.unroll(params, memory[0], view, is_first, extra)  # noqa: E731
        return over_agents(one, agents, axis=2)(params, memory[None], view, extra)
    # Agents and rows are one axis: with two of them XLA transposes in every gradient of a weight.
    size = shape[1] * shape[2]
    view, extra = (leaf.reshape(shape[0], size, *leaf.shape[3:]) for leaf in (view, extra))
    one = jax.tree.map(lambda leaf: leaf[0], params)
    flags = jnp.repeat(is_first, shape[2], axis=1)
    found = network.unroll(one, memory.reshape(size, memory.shape[-1]), view, flags, extra)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, leaf.shape[-1]), found)


def over_time(ids: jax.Array, num_steps: int) -> jax.Array:
    """[N, T, E] from [N, E]."""
    return jnp.broadcast_to(ids[:, None], (ids.shape[0], num_steps, ids.shape[1]))


def adam_init(params: Any) -> AdamState:
    """State of `adam_step` for parameters with leaves [G, ...]."""
    return jax.vmap(adamw_init)(_flat(params))


def adam_step(
    params: Any,
    gradient: Any,
    state: AdamState,
    learning_rate: jax.Array | float,
    max_norm: jax.Array | float,
    epsilon: float = 1e-8,
) -> tuple[Any, AdamState, jax.Array]:
    """One Adam step for each slot, its gradient clipped to `max_norm`: params, state, and [G] norms before clipping.

    All leaves are one vector here: a few long loops run and compile faster than a few short ones for each leaf.

    Args:
      params, gradient: leaves [G, ...]. state: from `adam_init`.
    """
    flat = _flat(gradient)
    norm = jax.vmap(global_norm)(flat)
    flat = jax.vmap(lambda g: clip_by_global_norm(g, max_norm))(flat)
    step = lambda p, g, s: adamw(p, g, s, learning_rate=learning_rate, weight_decay=0.0, epsilon=epsilon)  # noqa: E731
    stepped, state = jax.vmap(step)(_flat(params), flat, state)
    leaves, structure = jax.tree.flatten(params)
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
    parts = jnp.split(jnp.asarray(stepped), ends, axis=1)
    leaves = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, leaves), state, norm


def _flat(tree: Any) -> jax.Array:
    """[G, P] all entries of leaves [G, ...]."""
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], axis=1)
