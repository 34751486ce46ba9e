"""The environment contract: `Environment`, `TimeStep`, `Observation`.

An environment is a frozen dataclass that is a JAX pytree (`flax.struct.dataclass`): the numbers a study sweeps over are leaves, what
decides shapes is static (`struct.field(pytree_node=False)`). It matches `jumanji.Environment` method for method (`reset`, `step`,
`observation_spec`, `action_spec`, `reward_spec`, `discount_spec`, `render`) without inheriting from it, because importing jumanji
starts the XLA backend.

Conventions, everywhere:
  - the agent axis comes first: reward [N], discount [N], actions [N], agents_view [N, ...];
  - termination is `discount == 0`; truncation is `step_type == LAST` with `discount == 1`;
  - `timestep.extras` has the same tree, shapes and dtypes at reset and at every step; its "metrics" are scalars (`metric_units`).
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs

ScriptedPolicy = Callable[[Any, "Observation", jax.Array], jax.Array]
"""`policy(state, observation, key) -> actions` [N] or [N, D]: pure, and free to read the whole state."""


class StepType:
    """Position of a step in its episode (int8): FIRST after a reset, MID, LAST."""

    FIRST = np.int8(0)
    MID = np.int8(1)
    LAST = np.int8(2)


class Observation(NamedTuple):
    """What the agents may see.

    Attributes:
      agents_view: [N, ...] observation of each agent (float32, or small integers for grids).
      action_mask: [N, A] bool, True where the action is legal; [N, 0] for continuous actions.
      step_count: [] int32, steps since the reset.
    """

    agents_view: jax.Array
    action_mask: jax.Array
    step_count: jax.Array


@struct.dataclass
class TimeStep:
    """One transition's outcome, with the fields of `jumanji.types.TimeStep`.

    Attributes:
      step_type: [] int8, see `StepType`.
      reward: [N] float32; 0 at FIRST.
      discount: [N] float32; 0 at termination, 1 otherwise (also at truncation).
      observation: `Observation`.
      extras: dict; `extras["metrics"]` maps names to scalars.
    """

    step_type: jax.Array
    reward: jax.Array
    discount: jax.Array
    observation: Observation
    extras: dict[str, Any] = struct.field(default_factory=dict)

    def first(self) -> jax.Array:
        """[] bool: is this the timestep of a reset?"""
        return self.step_type == StepType.FIRST

    def mid(self) -> jax.Array:
        """[] bool: is this neither the first nor the last timestep?"""
        return self.step_type == StepType.MID

    def last(self) -> jax.Array:
        """[] bool: did the episode end with this timestep?"""
        return self.step_type == StepType.LAST


class Environment:
    """Base of every environment; subclasses are decorated with `flax.struct.dataclass`.

    A subclass writes `num_agents`, `num_actions`, `observation_shape`, `reset`, `step`; everything else has a
    default. `reset` and `step` are pure, un-batched, and know nothing of auto-reset, logging or learners.
    """

    # --- sizes ---------------------------------------------------------------------------------

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        raise NotImplementedError(f"{type(self).__name__} must define num_agents")

    @property
    def num_actions(self) -> int:
        """Number of discrete actions A (the largest over agents)."""
        raise NotImplementedError(f"{type(self).__name__} must define num_actions")

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one agent's view, without the agent axis."""
        raise NotImplementedError(f"{type(self).__name__} must define observation_shape")

    @property
    def fixed_horizon(self) -> int | None:
        """Number of steps after which every episode ends; None if episodes end early or never."""
        return None

    @property
    def endless(self) -> bool:
        """True if no episode ever ends (then `step_type` is never LAST)."""
        return False

    @property
    def agent_types(self) -> tuple[int, ...]:
        """[N] role of each agent, 0 for all of them unless overridden; learners may share parameters within a role."""
        return (0,) * self.num_agents

    @property
    def batch_last(self) -> bool:
        """True if `step` computes with a batch as the last axis (`marl_bench.envs.batch_last`).

        Changes no result: `VectorEnvironment` then restarts episodes in that form, too, which saves copies.
        """
        return False

    # --- dynamics ------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        """Start an episode.

        Args:
          key: [] typed PRNG key.
        Returns:
          state: pytree, and the FIRST `TimeStep`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define reset")

    def step(self, state: Any, actions: jax.Array) -> tuple[Any, TimeStep]:
        """Advance by one joint action.

        Args:
          state: state pytree of this environment.
          actions: [N] integers (or [N, D] floats). An out-of-range discrete action is clipped to 0 ... A - 1.
        Returns:
          state: next state, and the MID or LAST `TimeStep` (its observation is the episode's own, also at LAST).
        """
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def global_state(self, state: Any) -> jax.Array:
        """[S] float32 view of the whole state, for centralised training. Raises NotImplementedError if there is none."""
        raise NotImplementedError(f"{type(self).__name__} offers no global state")

    def render(self, state: Any) -> np.ndarray:
        """uint8 [H, W, 3] picture of `state`, made on the host without a display."""
        raise NotImplementedError(f"{type(self).__name__} offers no picture")

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """Hand-written policies by name; the first one plays the world well. Used by tests, datasets and baselines.

        A social dilemma names two of them "cooperate" and "defect".
        """
        return {}

    def prepare(self, seed: int) -> Environment:
        """Draw on the host what belongs to a run rather than to an episode (a random graph, say).

        Called once a cell with the run's seed. The default returns the environment itself.
        """
        del seed
        return self

    # --- what learners may exploit -------------------------------------------------------------

    @property
    def common_reward(self) -> bool | None:
        """Whether all agents always receive the same reward; None if that is not known. Not in a social dilemma."""
        return False if {"cooperate", "defect"} <= set(self.scripted_policies()) else None

    @property
    def learner_inputs(self) -> tuple[str, ...]:
        """Names of scalars that the *learner* writes into the last entries of every agent's view.

        The environment emits zeros there. Known names: "temperature", "progress".
        """
        return ()

    @property
    def num_codes(self) -> int | None:
        """Number K of distinct agent views, if there are few enough to enumerate; else None."""
        return None

    def code_observations(self) -> np.ndarray:
        """[K, O] float32: the agent view that each code stands for (`learner_inputs` entries are zero)."""
        raise NotImplementedError(f"{type(self).__name__} does not enumerate its observations")

    def observation_code(self, state: Any) -> jax.Array:
        """[N] uint8: the code of each agent's current view."""
        raise NotImplementedError(f"{type(self).__name__} does not enumerate its observations")

    def code_outcome(self, code: jax.Array, agent: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Recover an agent's last action and reward from the code it sees *after* the step.

        Works elementwise on any shape; lets replay keep codes only. None if the code does not determine them.

        Args:
          code: [...] integer codes.
          agent: [...] int32 agent indices, same shape.
        Returns:
          action: [...] int32, reward: [...] float32; or None.
        """
        del code, agent
        return None

    # --- documentation of the metrics ----------------------------------------------------------

    @property
    def metric_units(self) -> dict[str, str]:
        """What each entry of `timestep.extras["metrics"]` means, with its unit."""
        return {}

    # --- specs ---------------------------------------------------------------------------------

    @property
    def observation_spec(self) -> Any:
        """`ObservationSpec` of one observation (float32 views unless overridden)."""
        return specs.ObservationSpec(
            agents_view=specs.Array((self.num_agents, *self.observation_shape), np.float32, "agents_view"),
            action_mask=specs.BoundedArray((self.num_agents, self.num_actions), bool, "action_mask", False, True),
            step_count=specs.BoundedArray((), np.int32, "step_count", 0, np.iinfo(np.int32).max),
        )

    @property
    def action_spec(self) -> Any:
        """Spec of a joint action: [N] integers below A unless overridden."""
        return specs.MultiDiscreteArray([self.num_actions] * self.num_agents, np.int32, "action")

    @property
    def reward_spec(self) -> Any:
        """Spec of the reward [N] float32."""
        return specs.Array((self.num_agents,), np.float32, "reward")

    @property
    def discount_spec(self) -> Any:
        """Spec of the discount [N] float32 in [0, 1]."""
        return specs.BoundedArray((self.num_agents,), np.float32, "discount", 0.0, 1.0)

    @property
    def unwrapped(self) -> Environment:
        """The environment without wrappers."""
        return self

    # --- helpers for authors -------------------------------------------------------------------

    def observe_view(
        self, agents_view: jax.Array, step_count: jax.Array, action_mask: jax.Array | None = None
    ) -> Observation:
        """Assemble an `Observation`; without `action_mask` every action is legal.

        Args:
          agents_view: [N, ...].
          step_count: [] int32.
          action_mask: [N, A] bool or None.
        """
        if action_mask is None:
            action_mask = jnp.ones((self.num_agents, self.num_actions), bool)
        return Observation(agents_view, action_mask, jnp.asarray(step_count, jnp.int32))

    def restart(self, observation: Observation, metrics: dict[str, Any] | None = None) -> TimeStep:
        """The FIRST timestep: reward 0 [N], discount 1 [N]. `metrics`: scalars, the same names as at every step."""
        return TimeStep(
            step_type=jnp.asarray(StepType.FIRST),
            reward=jnp.zeros(self.num_agents, jnp.float32),
            discount=jnp.ones(self.num_agents, jnp.float32),
            observation=observation,
            extras={"metrics": as_metrics(metrics)},
        )

    def transition(
        self,
        reward: jax.Array,
        observation: Observation,
        terminated: Any = False,
        truncated: Any = False,
        metrics: dict[str, Any] | None = None,
    ) -> TimeStep:
        """A MID or LAST timestep.

        Args:
          reward: [N] reward of this step.
          observation: observation after the step.
          terminated: [] bool, the game itself ended (discount 0).
          truncated: [] bool, a time limit ended it (discount stays 1, so learners bootstrap).
          metrics: scalars, the same names as at reset.
        """
        terminated = jnp.asarray(terminated, bool)
        last = terminated | jnp.asarray(truncated, bool)
        discount = jnp.where(terminated, jnp.float32(0), jnp.float32(1))
        return TimeStep(
            step_type=jnp.where(last, StepType.LAST, StepType.MID),
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.broadcast_to(discount, (self.num_agents,)),
            observation=observation,
            extras={"metrics": as_metrics(metrics)},
        )


def as_metrics(metrics: dict[str, Any] | None) -> dict[str, jax.Array]:
    """Cast every metric to a float32 scalar, so that reset and step agree in dtype."""
    return {name: jnp.asarray(value, jnp.float32) for name, value in (metrics or {}).items()}


def concrete(value: Any) -> bool:
    """True for a plain Python or NumPy number: something a constructor can check before tracing."""
    return isinstance(value, (numbers.Number, np.generic)) and not isinstance(value, complex)


def check_range(
    owner: Any,
    name: str,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Check that field `name` of `owner` is a finite number in the stated range.

    Tracers, arrays and None pass: they come from `jax.tree` operations, not from a user.

    Raises:
      TypeError: when the value is text or a boolean.
      ValueError: when it is outside the range, NaN or infinite.
    """
    value = getattr(owner, name)
    kind = type(owner).__name__
    if isinstance(value, (str, bool)):
        raise TypeError(f"{name}={value!r}: must be a number (field of {kind})")
    if not concrete(value):
        return
    below = value <= low if open_low else value < low
    above = value >= high if open_high else value > high
    if not np.isfinite(value) or below or above:
        left = f"{'>' if open_low else '>='} {low:g}" if low > -np.inf else ""
        right = f"{'<' if open_high else '<='} {high:g}" if high < np.inf else ""
        wanted = " and ".join(part for part in (left, right) if part) or "finite"
        raise ValueError(f"{name}={value!r}: must be {wanted} (field of {kind})")


def check_integer(owner: Any, name: str, low: int, high: int | None = None) -> None:
    """Check that static field `name` of `owner` is an integer in [low, high].

    Raises:
      TypeError: when it is not an integer.
      ValueError: when it is outside the range.
    """
    value = getattr(owner, name)
    kind = type(owner).__name__
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}={value!r}: must be an integer (field of {kind})")
    if value < low or (high is not None and value > high):
        wanted = f">= {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name}={value!r}: must be {wanted} (field of {kind})")


def check_choice(owner: Any, name: str, choices: tuple[str, ...]) -> None:
    """Check that static field `name` of `owner` is one of `choices`.

    Raises:
      ValueError: naming the choices and the nearest one.
    """
    from marl_bench.naming import nearest

    value = getattr(owner, name)
    if value not in choices:
        hint = nearest(str(value), choices)
        raise ValueError(
            f"{name}={value!r}: must be one of {', '.join(choices)}{hint} (field of {type(owner).__name__})"
        )


def field(
    default: Any = dataclasses.MISSING, *, doc: str = "", unit: str = "", static: bool = False, **kwargs: Any
) -> Any:
    """A dataclass field with documentation, shown by `marl-bench list`.

    Args:
      default: default value (a Python scalar, never an array).
      doc: meaning, legal range and paper's symbol.
      unit: physical or game unit, empty if none.
      static: True if it decides shapes or the traced program; False for a leaf that studies sweep over.
      **kwargs: passed on to `flax.struct.field`.
    """
    metadata = {"doc": doc, "unit": unit}
    return struct.field(pytree_node=not static, default=default, metadata=metadata, **kwargs)
