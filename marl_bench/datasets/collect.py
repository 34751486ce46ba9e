"""Whole episodes of any policy, many at once on the device, as `Trajectories`.

An episode depends on the seed and its own number only, not on how many are played at once: a collection that was stopped
goes on where it was, to the same data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.algorithms.networked import is_discrete
from marl_bench.datasets.schema import Trajectories
from marl_bench.environment import Environment, Observation, ScriptedPolicy
from marl_bench.learner import Learner

LONGEST = 1_000
"""Steps after which an episode of a world without a time limit of its own is cut."""

Act = Callable[[Any, Any, Observation, Any, jax.Array], tuple[jax.Array, Any]]
"""`act(params, state, observation, memory, key) -> (actions, memory)` in one environment; `state` only for scripts."""


def scripted(policy: ScriptedPolicy) -> tuple[Act, Any]:
    """A scripted policy as (`Act`, first memory); it has no parameters."""
    return lambda params, state, observation, memory, key: (policy(state, observation, key), memory), ()


def learned(learner: Learner, num_agents: int, greedy: bool) -> tuple[Act, Any]:
    """A learner's policy as (`Act`, first memory); the parameters are `TrainState.params`."""

    def act(params: Any, state: Any, observation: Observation, memory: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        del state
        return learner.act(params, memory, observation, key, greedy)

    return act, learner.initial_memory(num_agents)


class Collector:
    """Plays episodes of one world with one kind of policy; compiled once, whatever the parameters.

    Args:
      environment: the world.
      act: how it is played. memory: of the agents at the start of an episode.
      with_state: keep the global state; None: if the world has one.
      together: episodes played at once.
    """

    def __init__(
        self, environment: Environment, act: Act, memory: Any, with_state: bool | None = None, together: int = 256
    ) -> None:
        self.environment, self.together = environment, together
        self._with_state = _has_state(environment) if with_state is None else with_state
        self._play = jax.jit(lambda params, keys: jax.vmap(lambda key: self._episode(params, memory, act, key))(keys))

    def play(self, params: Any, seed: int, first: int, count: int) -> Trajectories:
        """Episodes number `first` ... `first + count - 1` of `seed`, played with `params`."""
        numbers = np.arange(first, first + count)
        parts = []
        for start in range(0, count, self.together):
            chosen = numbers[start : start + self.together]
            filled = np.resize(chosen, self.together)  # one shape, so one program
            keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.asarray(filled))
            played = jax.tree.map(np.asarray, self._play(params, keys))
            parts.append(jax.tree.map(lambda leaf, size=chosen.size: leaf[:size], played))
        return self._trajectories(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))

    def _episode(self, params: Any, memory: Any, act: Act, key: jax.Array) -> dict[str, Any]:
        """One episode padded to the longest: leaves [L, ...], and what was seen, [L + 1, ...]."""
        env = self.environment
        key_start, key_play = jax.random.split(key)
        state, timestep = env.reset(key_start)
        seen = lambda state, observation: {  # noqa: E731
            "observations": observation.agents_view,
            "legals": observation.action_mask if is_discrete(env) else None,
            "state": env.global_state(state).astype(jnp.float32) if self._with_state else None,
        }

        def step(carry: Any, number: jax.Array) -> tuple[Any, Any]:
            state, observation, memory, over = carry
            actions, memory = act(params, state, observation, memory, jax.random.fold_in(key_play, number))
            before = seen(state, observation)
            state, timestep = env.step(state, actions)
            last = timestep.last()
            done = {"actions": actions, "rewards": timestep.reward, "discount": timestep.discount, "last": last}
            now = (state, timestep.observation, memory, over | last)
            # What comes after the end is not kept, but the last observation is: the world stands still from then on.
            now = jax.tree.map(lambda new, old: jnp.where(over, old, new), now, carry)
            return now, (before, {**done, "played": ~over})

        begin = (state, timestep.observation, memory, jnp.bool_(False))
        (state, observation, _, _), (rows, done) = jax.lax.scan(step, begin, jnp.arange(self.longest))
        return {"rows": {**rows, **done}, "last": seen(state, observation)}

    @property
    def longest(self) -> int:
        """L, steps of an episode at most."""
        env = self.environment
        limit = getattr(env.unwrapped, "horizon", None)
        return env.fixed_horizon or (limit if isinstance(limit, int) else LONGEST)

    def _trajectories(self, played: dict[str, Any]) -> Trajectories:
        rows, last = played["rows"], played["last"]
        kept = rows.pop("played")
        rows = jax.tree.map(lambda leaf: leaf[kept], rows)
        ends, discount = rows.pop("last"), rows.pop("discount")
        stop = np.cumsum(kept.sum(axis=1)) - 1
        cut = np.zeros(len(discount), bool)
        cut[stop] = True  # also an episode that had no end of its own
        terminals = discount == 0
        truncations = np.broadcast_to((cut | ends)[:, None], terminals.shape) & ~terminals
        kind = np.int32 if rows["actions"].ndim == 2 else np.float32
        return Trajectories(
            observations=rows["observations"],
            actions=rows["actions"].astype(kind),
            rewards=rows["rewards"].astype(np.float32),
            terminals=terminals,
            truncations=truncations,
            state=rows["state"],
            legals=rows["legals"],
            last_observations=last["observations"],
            last_state=last["state"],
            last_legals=last["legals"],
        )


def _has_state(environment: Environment) -> bool:
    try:
        jax.eval_shape(
            lambda key: environment.global_state(environment.reset(key)[0]), jax.eval_shape(lambda: jax.random.key(0))
        )
    except NotImplementedError:
        return False
    return True
