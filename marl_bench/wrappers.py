"""Wrappers: `AutoReset` (the one place where episodes restart), `TimeLimit`, `EpisodeMetrics`.

A wrapper is an environment whose field `environment` is the wrapped one, as a pytree child: its
leaves can be swept and stacked like those of a bare environment. Everything a wrapper does not
change is forwarded. Wrappers are un-batched; `vmap` them. None of them changes a timestep's
`extras` in place, and their `extras` have the same tree at reset and at every step.

Order: `AutoReset(EpisodeMetrics(TimeLimit(environment, limit)))`; `AutoReset` is always outermost.
"""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import Environment, ScriptedPolicy, StepType, TimeStep, as_metrics, check_integer

_PROPERTIES = (
    "num_agents",
    "num_actions",
    "observation_shape",
    "fixed_horizon",
    "endless",
    "agent_types",
    "common_reward",
    "batch_last",
    "learner_inputs",
    "num_codes",
    "metric_units",
    "observation_spec",
    "action_spec",
    "reward_spec",
    "discount_spec",
    "unwrapped",
)
_METHODS = ("code_observations", "code_outcome")


@struct.dataclass
class WrappedState:
    """State of `AutoReset`.

    Attributes:
      inner: state of the wrapped environment.
      key: [] PRNG key from which the keys of all later episodes are split.
    """

    inner: Any
    key: jax.Array


@struct.dataclass
class EpisodeState:
    """State of `EpisodeMetrics`.

    Attributes:
      inner: state of the wrapped environment.
      total: [] float32, reward of this episode so far, summed over agents.
      length: [] int32, steps of this episode so far.
    """

    inner: Any
    total: jax.Array
    length: jax.Array


@struct.dataclass
class Wrapper(Environment):
    """Base of the wrappers: forwards every member of `Environment` to `environment`.

    Attributes:
      environment: the wrapped environment.

    Raises:
      ValueError: when `environment` already restarts its episodes (`AutoReset` must be outermost).
    """

    environment: Any

    def __post_init__(self) -> None:
        if isinstance(self.environment, AutoReset):
            raise ValueError(f"environment=AutoReset(...): AutoReset must be outermost (in {type(self).__name__})")

    def inner_state(self, state: Any) -> Any:
        """State of the wrapped environment inside `state`."""
        return state

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        """Start an episode of the wrapped environment. `key`: [] PRNG key."""
        return self.environment.reset(key)

    def step(self, state: Any, actions: jax.Array) -> tuple[Any, TimeStep]:
        """Advance the wrapped environment by `actions` ([N] integers or [N, D] floats)."""
        return self.environment.step(state, actions)

    def prepare(self, seed: int) -> Environment:
        """Return this wrapper around the prepared environment."""
        return self.replace(environment=self.environment.prepare(seed))  # pyright: ignore[reportAttributeAccessIssue]

    def global_state(self, state: Any) -> jax.Array:
        """[S] float32 global state of the wrapped environment."""
        return self.environment.global_state(self.inner_state(state))

    def render(self, state: Any) -> np.ndarray:
        """uint8 [H, W, 3] picture of the wrapped environment."""
        return self.environment.render(self.inner_state(state))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """The wrapped environment's policies, which see its state and this wrapper's observation."""
        inner = self.environment.scripted_policies()
        return {name: _on_inner_state(self, policy) for name, policy in inner.items()}

    def observation_code(self, state: Any) -> jax.Array:
        """[N] uint8 codes of the agents' current views."""
        return self.environment.observation_code(self.inner_state(state))


def _on_inner_state(wrapper: Wrapper, policy: ScriptedPolicy) -> ScriptedPolicy:
    return lambda state, observation, key: policy(wrapper.inner_state(state), observation, key)


def _forwarded_property(name: str) -> property:
    return property(lambda self: getattr(self.environment, name), doc=getattr(Environment, name).__doc__)


def _forwarded_method(name: str) -> Any:
    def forward(self: Wrapper, *args: Any) -> Any:
        return getattr(self.environment, name)(*args)

    forward.__name__, forward.__doc__ = name, getattr(Environment, name).__doc__
    return forward


for _name in _PROPERTIES:
    setattr(Wrapper, _name, _forwarded_property(_name))
for _name in _METHODS:
    setattr(Wrapper, _name, _forwarded_method(_name))


@struct.dataclass
class AutoReset(Wrapper):
    """Restart an episode in the very step that ends it.

    The LAST timestep keeps the old episode's `step_type`, `reward`, `discount` and metrics; its `observation` is the
    *new* episode's first one. Two entries are added to `extras`:

      - `final_observation`: the observation before any restart, hence always the true successor of the actions
        (at reset: the first observation);
      - `is_first`: [] bool, True where `observation` is the first of an episode: at reset and at every LAST.
        Recurrent learners clear their memory before they act on such an observation.

    Each episode's key is split from the state's, so a run is a function of the key given to `reset`. Keys are split
    and `reset` runs only at an end when un-batched; under `vmap` the choice becomes a select. For an endless
    environment no restart is traced.
    """

    def inner_state(self, state: WrappedState) -> Any:
        """State of the wrapped environment inside `state`."""
        return state.inner

    def reset(self, key: jax.Array) -> tuple[WrappedState, TimeStep]:
        """Start the first episode.

        Args:
          key: [] PRNG key.
        Returns:
          state: `WrappedState`, and the FIRST `TimeStep`.
        """
        state, timestep = self._start(key)
        extras = {**timestep.extras, "final_observation": timestep.observation, "is_first": jnp.asarray(True)}
        return state, timestep.replace(extras=extras)  # pyright: ignore[reportAttributeAccessIssue]

    def step(self, state: WrappedState, actions: jax.Array) -> tuple[WrappedState, TimeStep]:
        """Advance by one joint action, and start the next episode if this one ends.

        Args:
          state: `WrappedState`.
          actions: [N] integers (or [N, D] floats).
        Returns:
          state: next `WrappedState`, and the MID or LAST `TimeStep`.
        """
        inner, timestep = self.environment.step(state.inner, actions)
        following, observation = WrappedState(inner, state.key), timestep.observation
        is_last = timestep.last()
        extras = {**timestep.extras, "final_observation": observation, "is_first": is_last}
        if not self.endless:
            following, observation = jax.lax.cond(
                is_last, lambda: self._restarted(state.key), lambda: (following, timestep.observation)
            )
        return following, timestep.replace(observation=observation, extras=extras)

    def _start(self, key: jax.Array) -> tuple[WrappedState, TimeStep]:
        key_episode, key_later = jax.random.split(key)
        inner, timestep = self.environment.reset(key_episode)
        return WrappedState(inner, key_later), timestep

    def _restarted(self, key: jax.Array) -> tuple[WrappedState, Any]:
        state, timestep = self._start(key)
        return state, timestep.observation


@struct.dataclass
class TimeLimit(Wrapper):
    """Truncate every episode after `limit` steps: LAST with the discount the environment gave.

    The steps are those of `observation.step_count`, so the wrapper needs no state of its own.

    Attributes:
      limit: longest episode, in steps, at least 1.
    """

    limit: int = struct.field(pytree_node=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "limit", 1)

    @property
    def fixed_horizon(self) -> int | None:
        """Number of steps after which every episode ends; None if the wrapped environment may end earlier."""
        if self.environment.endless:
            return self.limit
        inner = self.environment.fixed_horizon
        return None if inner is None else min(inner, self.limit)

    @property
    def endless(self) -> bool:
        """False: every episode ends."""
        return False

    def step(self, state: Any, actions: jax.Array) -> tuple[Any, TimeStep]:
        """Advance by one joint action; the timestep is LAST from `limit` steps on."""
        state, timestep = self.environment.step(state, actions)
        expired = timestep.observation.step_count >= self.limit
        return state, timestep.replace(step_type=jnp.where(expired, StepType.LAST, timestep.step_type))


@struct.dataclass
class EpisodeMetrics(Wrapper):
    """Report each episode's return and length at its end.

    Three entries are added to `extras["metrics"]`: `return/sum` (over agents and steps), `return/mean_per_agent`, both
    in units of reward, and `episode_length` in steps. They are 0 at every step but LAST, so that a sum over steps
    divided by the number of LAST steps is the mean over episodes.
    """

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of every metric, the wrapped environment's included."""
        return {
            **self.environment.metric_units,
            "return/sum": "reward of the episode, summed over agents; 0 except at its last step",
            "return/mean_per_agent": "reward of the episode, mean over agents; 0 except at its last step",
            "episode_length": "steps of the episode; 0 except at its last step",
        }

    def inner_state(self, state: EpisodeState) -> Any:
        """State of the wrapped environment inside `state`."""
        return state.inner

    def reset(self, key: jax.Array) -> tuple[EpisodeState, TimeStep]:
        """Start an episode with all sums at 0. `key`: [] PRNG key."""
        inner, timestep = self.environment.reset(key)
        state = EpisodeState(inner, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))
        return state, self._report(state, timestep, jnp.asarray(False))

    def step(self, state: EpisodeState, actions: jax.Array) -> tuple[EpisodeState, TimeStep]:
        """Advance by one joint action and add its reward."""
        inner, timestep = self.environment.step(state.inner, actions)
        total = state.total + jnp.sum(timestep.reward, dtype=jnp.float32)
        state = EpisodeState(inner, total, state.length + 1)
        return state, self._report(state, timestep, timestep.last())

    def _report(self, state: EpisodeState, timestep: TimeStep, is_last: jax.Array) -> TimeStep:
        total = jnp.where(is_last, state.total, 0.0)
        episode = {
            "return/sum": total,
            "return/mean_per_agent": total / self.num_agents,
            "episode_length": jnp.where(is_last, state.length, 0),
        }
        metrics = {**timestep.extras.get("metrics", {}), **as_metrics(episode)}
        return timestep.replace(extras={**timestep.extras, "metrics": metrics})  # pyright: ignore[reportAttributeAccessIssue]


def register_with_jumanji() -> None:
    """Make `isinstance(environment, jumanji.Environment)` true for every environment of this package.

    Jumanji's own wrappers then accept ours. Call it only after `jax.distributed.initialize`: importing jumanji starts
    the XLA backend.

    Raises:
      ImportError: when jumanji is not installed.
    """
    importlib.import_module("jumanji").Environment.register(Environment)
