"""Worlds of a few steps whose answers are known, for tests of learners."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import Environment, Observation, TimeStep


@struct.dataclass
class TinyState:
    """step: [] int32. cue: [N] int32."""

    step: jax.Array
    cue: jax.Array


@struct.dataclass
class MemoryGame(Environment):
    """Each agent sees one of two cues at step 0 and nothing afterwards; naming the cue in step 2 pays 1, all else 0.

    Without a memory nobody can do better than 0.5.
    """

    @property
    def num_agents(self) -> int:
        return 2

    @property
    def num_actions(self) -> int:
        return 2

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (3,)

    @property
    def fixed_horizon(self) -> int:
        return 3

    def _observed(self, state: TinyState) -> Observation:
        cue = jax.nn.one_hot(state.cue, 2) * (state.step == 0)
        return self.observe_view(jnp.concatenate([cue, jnp.full((2, 1), state.step / 2.0)], axis=1), state.step)

    def reset(self, key: jax.Array) -> tuple[TinyState, TimeStep]:
        state = TinyState(jnp.int32(0), jax.random.bernoulli(key, 0.5, (2,)).astype(jnp.int32))
        return state, self.restart(self._observed(state))

    def step(self, state: TinyState, actions: jax.Array) -> tuple[TinyState, TimeStep]:
        reward = ((actions == state.cue) & (state.step == 2)) * 1.0
        state = state.replace(step=state.step + 1)
        return state, self.transition(reward, self._observed(state), terminated=state.step >= 3)


@struct.dataclass
class Chain(Environment):
    """Three places in a row and back to the first, one step each whatever is played; leaving the last pays 1.

    The game never ends, but episodes are cut after `limit` steps. Hence with discount g the values of the places are exactly
    g^2 / (1 - g^3), g / (1 - g^3) and 1 / (1 - g^3): a learner that takes the cut for an end learns smaller ones.
    """

    limit: int = struct.field(pytree_node=False, default=5)

    @property
    def num_agents(self) -> int:
        return 1

    @property
    def num_actions(self) -> int:
        return 2

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (3,)

    def _observed(self, state: TinyState) -> Observation:
        return self.observe_view(jax.nn.one_hot(state.cue, 3), state.step)

    def reset(self, key: jax.Array) -> tuple[TinyState, TimeStep]:
        state = TinyState(jnp.int32(0), jax.random.randint(key, (1,), 0, 3))
        return state, self.restart(self._observed(state))

    def step(self, state: TinyState, actions: jax.Array) -> tuple[TinyState, TimeStep]:
        reward = (state.cue == 2) * 1.0
        state = TinyState(state.step + 1, (state.cue + 1) % 3)
        return state, self.transition(reward, self._observed(state), truncated=state.step >= self.limit)

    @staticmethod
    def values(discount: float) -> np.ndarray:
        """[3] exact values of the places."""
        return np.array([discount**2, discount, 1.0]) / (1 - discount**3)
