"""`VectorEnvironment`: a batch of one environment, restarting its episodes at the cost the game deserves.

What a restart inside the step costs depends on the game. Generated start states (foraging) cost several steps, and under
`vmap` a per-environment choice computes them in every step; so they are prepared outside the roll-out and taken from a pool.
Games of a fixed horizon all end in one step; so one batch-level branch decides for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench import sharding
from marl_bench.environment import TimeStep, check_choice, check_integer

STRATEGIES = ("auto", "select", "cond", "pool")

_POOL_CHUNK = 4096
"""Start states generated at once: bounds the memory that a large pool needs while it is made."""


@struct.dataclass
class VectorState:
    """State of a `VectorEnvironment` of B environments.

    Attributes:
      inner: [B, ...] states of the environments.
      key: [] typed PRNG key from which later start states are drawn.
      pool: (states, observations) [K, ...] prepared starts; None unless the strategy is "pool".
      cursor: [] uint32, number of restarts so far.
    """

    inner: Any
    key: jax.Array
    pool: Any
    cursor: jax.Array


@struct.dataclass
class VectorEnvironment:
    """B copies of an environment that are stepped at once and restart in the step that ends their episode.

    As with `AutoReset`, the LAST timestep keeps the old episode's `step_type`, `reward`, `discount` and metrics while its
    `observation` is the new episode's first; `extras["final_observation"]` is the true successor of the actions and
    `extras["is_first"]` [B] says where `observation` starts an episode.

    | strategy | how | fits |
    | --- | --- | --- |
    | select | every environment computes a start in every step | starts that are almost free |
    | cond | all environments compute one in a step in which any of them ends | games of a fixed horizon |
    | pool | starts are drawn beforehand and handed out in turn | games that end early |

    With "pool", starts are independent until `pool_size` of them are used; then they come round again (keys inside a
    state never do) unless `refresh` has drawn new ones. The other strategies draw every start afresh.

    Attributes:
      environment: the environment; with `stacked`, B of them with leaves [B, ...].
      num_envs: B, number of environments.
      strategy: one of the above, or "auto": "cond" for a fixed horizon, else "pool" ("select" if stacked).
      pool_size: K, prepared starts; None for max(2 B, 1024).
      stacked: whether every environment of the batch has parameters of its own.
      with_global_state: add `extras["global_state"]` and `extras["final_global_state"]` [B, S]: of the state that is returned, and
        of the true successor of the actions, as for the two observations.

    Raises:
      ValueError: for values out of range, and for "pool" with `stacked`, where starts belong to one environment.
    """

    environment: Any
    num_envs: int = struct.field(pytree_node=False)
    strategy: str = struct.field(pytree_node=False, default="auto")
    pool_size: int | None = struct.field(pytree_node=False, default=None)
    stacked: bool = struct.field(pytree_node=False, default=False)
    with_global_state: bool = struct.field(pytree_node=False, default=False)

    def __post_init__(self) -> None:
        check_integer(self, "num_envs", 1)
        check_choice(self, "strategy", STRATEGIES)
        if self.pool_size is not None:
            check_integer(self, "pool_size", 1)
        if self.stacked and self.strategy == "pool":
            raise ValueError("strategy='pool' with stacked=True: use 'select' or 'cond' (field of VectorEnvironment)")

    @property
    def chosen_strategy(self) -> str:
        """The strategy in use: "none" for an endless game, else as set or as "auto" decides."""
        if self.environment.endless:
            return "none"
        if self.strategy != "auto":
            return self.strategy
        if self.environment.fixed_horizon is not None:
            return "cond"
        return "select" if self.stacked else "pool"

    def reset(self, key: jax.Array) -> tuple[VectorState, TimeStep]:
        """Start B episodes, and fill the pool if there is one.

        Args:
          key: [] typed PRNG key.
        Returns:
          state: `VectorState`, and the FIRST `TimeStep` with leaves [B, ...].
        """
        key_starts, key_pool, key_later = jax.random.split(key, 3)
        inner, timestep = self._starts(key_starts)
        pool = self._draw_pool(key_pool) if self.chosen_strategy == "pool" else None
        state = VectorState(inner, key_later, pool, jnp.uint32(0))
        timestep = self._with_global_states(timestep, inner, inner)
        return state, _with_extras(timestep, timestep.observation, jnp.ones(self.num_envs, bool))

    def step(self, state: VectorState, actions: jax.Array) -> tuple[VectorState, TimeStep]:
        """Advance all environments by one joint action each.

        Args:
          state: `VectorState`.
          actions: [B, N] integers (or [B, N, D] floats).
        Returns:
          state: next `VectorState`, and the MID or LAST `TimeStep` with leaves [B, ...].
        """
        inner, timestep = jax.vmap(type(self.environment).step, (self._axis, 0, 0))(
            self.environment, state.inner, actions
        )
        ended = timestep.last()
        successor, following = inner, (inner, timestep.observation)
        key = state.key
        if self.chosen_strategy == "select":
            key, key_starts = jax.random.split(key)
            following = _where(ended, self._fresh(key_starts), following)
        elif self.chosen_strategy == "cond":
            key, key_starts = jax.random.split(key)
            following = self._restarted(ended, lambda: self._fresh(key_starts), following)
        elif self.chosen_strategy == "pool":
            following = self._restarted(ended, lambda: self._taken(state, ended), following)
        inner, observation = following
        cursor = state.cursor + jnp.sum(ended, dtype=jnp.uint32)
        final = timestep.observation
        timestep = self._with_global_states(timestep.replace(observation=observation), inner, successor)
        return VectorState(inner, key, state.pool, cursor), _with_extras(timestep, final, ended)

    def refresh(self, state: VectorState) -> VectorState:
        """Draw a new pool; call it between roll-outs. Without a pool the state is returned as it is."""
        if state.pool is None:
            return state
        key, key_pool = jax.random.split(state.key)
        return VectorState(state.inner, key, self._draw_pool(key_pool), state.cursor)

    def _with_global_states(self, timestep: TimeStep, inner: Any, successor: Any) -> TimeStep:
        if not self.with_global_state:
            return timestep
        view = jax.vmap(type(self.environment).global_state, (self._axis, 0))
        added = {"global_state": view(self.environment, inner)}
        added["final_global_state"] = view(self.environment, successor)
        return timestep.replace(extras={**timestep.extras, **added})  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def _axis(self) -> int | None:
        return 0 if self.stacked else None

    def _starts(self, key: jax.Array) -> tuple[Any, TimeStep]:
        keys = jax.random.split(key, self.num_envs)
        return jax.vmap(type(self.environment).reset, (self._axis, 0))(self.environment, keys)

    def _restarted(self, ended: jax.Array, starts: Callable[[], Any], following: Any) -> Any:
        """`following` with `starts()` where `ended` [B]; they are computed only in a step in which any ended."""
        if not self.environment.batch_last:
            return jax.lax.cond(jnp.any(ended), lambda: _where(ended, starts(), following), lambda: following)
        # What a branch returns is laid out in the order of its axes. With the batch in front, a world that computes with
        # the batch at the end would have its whole state and observation rewritten in every step.
        last = _moved(following, 0, -1)

        def renewed() -> Any:
            return jax.tree.map(lambda new, old: jnp.where(ended, new, old), _moved(starts(), 0, -1), last)

        return _moved(jax.lax.cond(jnp.any(ended), renewed, lambda: last), -1, 0)

    def _fresh(self, key: jax.Array) -> tuple[Any, Any]:
        inner, timestep = self._starts(key)
        return inner, timestep.observation

    def _draw_pool(self, key: jax.Array) -> tuple[Any, Any]:
        size = max(2 * self.num_envs, 1024) if self.pool_size is None else self.pool_size

        def start(key: jax.Array) -> tuple[Any, Any]:
            inner, timestep = self.environment.reset(key)
            return inner, timestep.observation

        # On several devices each draws its part, and all have all of it: it is read in every step.
        if size <= _POOL_CHUNK:
            return sharding.whole(jax.vmap(start)(sharding.split(jax.random.split(key, size))))
        # Not `lax.map(batch_size=)`: it cannot flatten leaves without entries, such as the beams of a world without beams.
        chunks = -(-size // _POOL_CHUNK)
        keys = jax.random.split(key, chunks * _POOL_CHUNK).reshape(chunks, _POOL_CHUNK)
        drawn = sharding.whole(jax.lax.map(jax.vmap(start), sharding.split(keys, axis=1)), axis=1)
        return jax.tree.map(lambda leaf: leaf.reshape(chunks * _POOL_CHUNK, *leaf.shape[2:])[:size], drawn)

    def _taken(self, state: VectorState, ended: jax.Array) -> tuple[Any, Any]:
        """The next starts of the pool, one for each ended environment (the others get any)."""
        size = jax.tree.leaves(state.pool)[0].shape[0]
        turn = state.cursor + jnp.cumsum(ended, dtype=jnp.uint32) - 1
        inner, observation = jax.tree.map(lambda leaf: leaf[turn % size], state.pool)

        def renewed(leaf: jax.Array) -> jax.Array:
            # A start that comes round again must not bring the random numbers of its first use.
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return leaf
            fold = jax.random.fold_in
            for _ in leaf.shape[1:]:
                fold = jax.vmap(fold, (0, None))
            return jax.vmap(fold)(leaf, turn)

        return jax.tree.map(renewed, inner), observation


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    """Choose by environment: `condition` [B], leaves [B, ...]."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _moved(tree: Any, source: int, destination: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, source, destination), tree)


def _with_extras(timestep: TimeStep, final_observation: Any, is_first: jax.Array) -> TimeStep:
    extras = {**timestep.extras, "final_observation": final_observation, "is_first": is_first}
    return timestep.replace(extras=extras)  # pyright: ignore[reportAttributeAccessIssue]
