"""Social metrics of an episode: efficiency, equality, sustainability, peace and others, from O(N) sums.

`begin`, `update` and `summarise` are pure and work in `scan` and under `vmap`; the wrapper `SocialMetrics` runs them inside
any environment and reports at the end of every episode, also under auto-reset. With returns R_i, N agents, T steps:

| metric | definition | source |
|---|---|---|
| efficiency | sum of R_i / T | Perolat et al. 2017, U |
| efficiency_per_capita | efficiency / N | |
| equality | 1 - Gini(R), see `equality` | Perolat et al. 2017, E |
| sustainability | mean over agents of the mean step (from 0) of their positive rewards | Perolat et al. 2017, S |
| peace | N - (steps that agents spent removed) / T, in 0 ... N | Perolat et al. 2017, P |
| min_return | smallest R_i | |
| nash_welfare | sum of log(max(R_i, 0) + epsilon) | |
| reward_std | standard deviation over the steps of an agent's reward, mean over agents | |
| shots_per_agent | beams fired to hit others, per agent | |
| hits_per_shot | hits divided by shots; 0 without shots | |
| cooperation_rate | cooperative events among all events that the world classifies; 0 without events | |
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from marl_bench.environment import TimeStep, as_metrics, check_range, field
from marl_bench.wrappers import Wrapper


@struct.dataclass
class MetricsState:
    """Sums over the steps of one episode so far.

    Attributes:
      steps: [] int32, number of steps; at most 65,535 keep `paid_steps` exact.
      returns: [N] float32, sum of rewards.
      squares: [N] float32, sum of squared rewards.
      paid: [N] int32, number of steps with a positive reward.
      paid_steps: [N] int32, sum of the indices (from 0) of those steps.
      removed: [N] int32, steps spent out of the game.
      shots: [N] int32, beams fired to hit others.
      hits: [N] int32, hits taken.
      cooperations: [N] int32, cooperative events.
      defections: [N] int32, defective events.
    """

    steps: jax.Array
    returns: jax.Array
    squares: jax.Array
    paid: jax.Array
    paid_steps: jax.Array
    removed: jax.Array
    shots: jax.Array
    hits: jax.Array
    cooperations: jax.Array
    defections: jax.Array


_COUNTS = ("removed", "shots", "hits", "cooperations", "defections")


def begin(num_agents: int) -> MetricsState:
    """All sums at 0 for N agents."""
    sums = {name: jnp.zeros(num_agents, jnp.int32) for name in ("paid", "paid_steps", *_COUNTS)}
    return MetricsState(
        steps=jnp.zeros((), jnp.int32),
        returns=jnp.zeros(num_agents, jnp.float32),
        squares=jnp.zeros(num_agents, jnp.float32),
        **sums,
    )


def update(state: MetricsState, reward: jax.Array, **counts: jax.Array) -> MetricsState:
    """Add one step.

    Args:
      state: sums so far.
      reward: [N] reward of the step.
      **counts: [N] integers or bool of the step for any of `removed`, `shots`, `hits`, `cooperations`, `defections`;
        what is not given counts as 0.
    Raises:
      TypeError: for any other name.
    """
    unknown = sorted(set(counts) - set(_COUNTS))
    if unknown:
        raise TypeError(f"update: unknown counts {', '.join(unknown)} (known: {', '.join(_COUNTS)})")
    reward = jnp.asarray(reward, jnp.float32)
    positive = reward > 0
    sums = {name: getattr(state, name) + jnp.asarray(value, jnp.int32) for name, value in counts.items()}
    return state.replace(  # pyright: ignore[reportAttributeAccessIssue]
        steps=state.steps + 1,
        returns=state.returns + reward,
        squares=state.squares + reward**2,
        paid=state.paid + positive,
        paid_steps=state.paid_steps + jnp.where(positive, state.steps, 0),
        **sums,
    )


def gini(values: jax.Array) -> jax.Array:
    """[] float32 Gini coefficient of non-negative values [N]: 0 if all are equal (also if all are 0), at most 1 - 1/N.

    Sorted form: sum_i (2 i - N - 1) x_(i) / (N sum x), i = 1 ... N.
    """
    count = values.shape[-1]
    weights = 2 * np.arange(1, count + 1, dtype=np.float32) - count - 1
    total = jnp.sum(values)
    return jnp.where(total > 0, jnp.sum(weights * jnp.sort(values)) / (count * jnp.where(total > 0, total, 1)), 0.0)


def equality(returns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Equality of returns [N]: 1 - Gini(R), or 1 - Gini(R - min R) where the former has no meaning.

    Returns:
      equality: [] float32 in 1/N ... 1.
      shifted: [] bool, True where a return is negative or their sum is 0: the value is then not comparable to others.
    """
    lowest = jnp.min(returns)
    shifted = (lowest < 0) | (jnp.sum(returns) <= 0)
    return 1 - gini(jnp.where(shifted, returns - lowest, returns)), shifted


def sustainability(state: MetricsState) -> tuple[jax.Array, jax.Array]:
    """Mean step of positive rewards, over the agents that had any.

    Returns:
      sustainability: [] float32 in 0 ... T - 1; NaN if no agent had a positive reward.
      unpaid: [] int32, number of agents without a positive reward, which are left out.
    """
    has = state.paid > 0
    mean_step = jnp.where(has, state.paid_steps / jnp.where(has, state.paid, 1), 0.0)
    count = jnp.sum(has)
    mean = jnp.where(count > 0, jnp.sum(mean_step) / jnp.where(count > 0, count, 1), jnp.nan)
    return mean, has.shape[-1] - count


def summarise(state: MetricsState, epsilon: float = 1e-3) -> dict[str, jax.Array]:
    """The metrics of the module's docstring, and `equality_shifted` and `unpaid_agents`, which qualify them.

    Args:
      state: sums of an episode. epsilon: of the Nash welfare, in units of return.
    Returns:
      float32 scalars by name. All finite but `sustainability`, which is NaN if nobody had a positive reward.
    """
    count = state.returns.shape[-1]
    steps = jnp.maximum(state.steps, 1)
    total = jnp.sum(state.returns)
    equal, shifted = equality(state.returns)
    mean_step, unpaid = sustainability(state)
    mean = state.returns / steps
    spread = jnp.sqrt(jnp.maximum(state.squares / steps - mean**2, 0))
    return as_metrics(
        {
            "efficiency": total / steps,
            "efficiency_per_capita": total / steps / count,
            "equality": equal,
            "equality_shifted": shifted,
            "sustainability": mean_step,
            "unpaid_agents": unpaid,
            "peace": count - jnp.sum(state.removed) / steps,
            "min_return": jnp.min(state.returns),
            "nash_welfare": jnp.sum(jnp.log(jnp.maximum(state.returns, 0) + epsilon)),
            "reward_std": jnp.mean(spread),
            "shots_per_agent": jnp.mean(state.shots.astype(jnp.float32)),
            "hits_per_shot": _ratio(state.hits, state.shots),
            "cooperation_rate": _ratio(state.cooperations, state.cooperations + state.defections),
        }
    )


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    total = jnp.sum(whole)
    return jnp.where(total > 0, jnp.sum(part) / jnp.where(total > 0, total, 1), 0.0)


def lorenz(returns: ArrayLike) -> np.ndarray:
    """Lorenz curve on the host: share of the total that the poorest k of N agents hold, k = 0 ... N.

    Args:
      returns: [N] non-negative, with a positive sum.
    Returns:
      [N + 1] float64 from 0 to 1, convex.
    Raises:
      ValueError: for negative returns or a sum of 0.
    """
    values = np.sort(np.asarray(returns, np.float64))
    if values.ndim != 1 or not values.size or values[0] < 0 or values.sum() <= 0:
        raise ValueError(f"returns={np.asarray(returns)!r}: need [N] non-negative numbers with a positive sum")
    return np.concatenate([[0.0], np.cumsum(values) / values.sum()])


UNITS = {
    "efficiency": "reward of all agents per step",
    "efficiency_per_capita": "reward per agent and step",
    "equality": "1 - Gini coefficient of the returns, 1/N to 1",
    "equality_shifted": "1 if returns were shifted by their minimum first (negative returns or a sum of 0)",
    "sustainability": "mean step index of positive rewards; 0 where undefined",
    "sustainability_defined": "1 if an agent had a positive reward",
    "unpaid_agents": "agents without a positive reward, left out of sustainability",
    "peace": "agents in the game, mean over steps",
    "min_return": "smallest return of an agent",
    "nash_welfare": "sum over agents of log(return + epsilon)",
    "reward_std": "standard deviation over steps of an agent's reward, mean over agents",
    "shots_per_agent": "beams fired to hit others, per agent",
    "hits_per_shot": "hits per such beam",
    "cooperation_rate": "cooperative events among those that the world classifies",
}
"""Meaning and unit of what `SocialMetrics` reports, without its prefix; all are 0 except at an episode's last step."""


@struct.dataclass
class SocialState:
    """State of `SocialMetrics`.

    Attributes:
      inner: state of the wrapped environment.
      sums: `MetricsState` of the running episode.
    """

    inner: Any
    sums: MetricsState


@struct.dataclass
class SocialMetrics(Wrapper):
    """Report the social metrics of every episode at its end, as `social/<name>` in `extras["metrics"]`.

    They are 0 at every other step, so that a sum over steps divided by the number of LAST steps is the mean over
    episodes; divide `sustainability` by `sustainability_defined` instead. Rewards are those of the wrapped environment:
    put reward wrappers outside to judge by raw rewards. Of the environment's extras, `alive` [N] (False: removed),
    `shots`, `hits`, `cooperations` and `defections` [N] are used where they exist.
    """

    epsilon: float = field(1e-3, doc="added to returns before the logarithm of the Nash welfare; > 0", unit="reward")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "epsilon", 0.0, open_low=True)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of every metric, the wrapped environment's included."""
        own = {f"social/{name}": f"{unit}; 0 except at the last step" for name, unit in UNITS.items()}
        return {**self.environment.metric_units, **own}

    def inner_state(self, state: SocialState) -> Any:
        """State of the wrapped environment inside `state`."""
        return state.inner

    def reset(self, key: jax.Array) -> tuple[SocialState, TimeStep]:
        """Start an episode with all sums at 0. `key`: [] PRNG key."""
        inner, timestep = self.environment.reset(key)
        state = SocialState(inner, begin(self.num_agents))
        return state, self._report(state.sums, timestep, jnp.asarray(False))

    def step(self, state: SocialState, actions: jax.Array) -> tuple[SocialState, TimeStep]:
        """Advance by one joint action and add its reward and events."""
        inner, timestep = self.environment.step(state.inner, actions)
        extras = timestep.extras
        counts = {name: extras[name] for name in _COUNTS if name in extras and name != "removed"}
        if "alive" in extras:
            counts["removed"] = ~jnp.asarray(extras["alive"], bool)
        sums = update(state.sums, timestep.reward, **counts)
        return SocialState(inner, sums), self._report(sums, timestep, timestep.last())

    def _report(self, sums: MetricsState, timestep: TimeStep, is_last: jax.Array) -> TimeStep:
        found = summarise(sums, self.epsilon)
        defined = ~jnp.isnan(found["sustainability"])
        found["sustainability_defined"] = defined.astype(jnp.float32)
        found["sustainability"] = jnp.where(defined, found["sustainability"], 0.0)
        own = {f"social/{name}": jnp.where(is_last, found[name], 0.0) for name in UNITS}
        metrics = {**timestep.extras.get("metrics", {}), **own}
        return timestep.replace(extras={**timestep.extras, "metrics": metrics})  # pyright: ignore[reportAttributeAccessIssue]
