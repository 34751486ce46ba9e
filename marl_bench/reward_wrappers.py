"""Wrappers that change what agents are paid: common, prosocial, inequity-averse, by social value orientation, sanctions.

They turn the rewards [N] of any environment into other rewards [N] and touch nothing else. The reward that the bare
environment paid stays in `extras["raw_reward"]` [N], under any number of these wrappers. Coefficients are leaves: they can
be swept, and a schedule is `environment.replace(selfishness=...)` between updates, without another compilation.
Those marked "or [N]" may differ between agents.

Order: `AutoReset(EpisodeMetrics(InequityAversion(environment)))` reports returns of the changed reward,
`InequityAversion(EpisodeMetrics(environment))` those of the raw one. Metrics of the environment stay what they were.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import TimeStep, check_choice, check_range, field
from marl_bench.wrappers import Wrapper


@struct.dataclass
class RewardWrapper(Wrapper):
    """Base: subclasses write `changed(reward, extras)`, a pure function of the reward [N] of one step."""

    @property
    def reward_spec(self) -> Any:
        """[N] float32 without bounds: those of the raw reward no longer hold."""
        return specs.Array((self.num_agents,), np.float32, "reward")

    @property
    def common_reward(self) -> bool | None:
        """None: what the bare environment says does not hold for the changed reward."""
        return None

    def code_outcome(self, code: jax.Array, agent: jax.Array) -> None:
        """None: a code of the view does not determine the changed reward."""
        del code, agent

    def changed(self, reward: jax.Array, extras: dict[str, Any]) -> jax.Array:
        """[N] reward to pay instead of `reward` [N]; `extras` are those of the same timestep."""
        raise NotImplementedError(f"{type(self).__name__} must define changed")

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        """Start an episode of the wrapped environment. `key`: [] PRNG key."""
        state, timestep = self.environment.reset(key)
        return state, repaid(timestep, timestep.reward)

    def step(self, state: Any, actions: jax.Array) -> tuple[Any, TimeStep]:
        """Advance the wrapped environment by `actions` and change the reward."""
        state, timestep = self.environment.step(state, actions)
        return state, repaid(timestep, self.changed(timestep.reward, timestep.extras))


def repaid(timestep: TimeStep, reward: jax.Array) -> TimeStep:
    """The timestep with another reward [N]; the first one it ever had is kept in `extras["raw_reward"]`."""
    extras = {"raw_reward": timestep.reward, **timestep.extras}
    return timestep.replace(reward=jnp.asarray(reward, jnp.float32), extras=extras)  # pyright: ignore[reportAttributeAccessIssue]


def mean_of_others(reward: jax.Array) -> jax.Array:
    """[N] mean reward of the other agents; 0 for a single agent."""
    return (jnp.sum(reward) - reward) / max(reward.shape[-1] - 1, 1)


# --- the same for all, or a share of the others' ----------------------------------------------------


@struct.dataclass
class CommonReward(RewardWrapper):
    """Pay every agent the sum (or mean) of all rewards."""

    reduce: str = field("sum", static=True, doc="sum or mean over agents")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "reduce", ("sum", "mean"))

    @property
    def common_reward(self) -> bool:
        """True."""
        return True

    def changed(self, reward: jax.Array, extras: dict[str, Any]) -> jax.Array:
        """[N] the sum or mean of `reward` [N]."""
        del extras
        total = jnp.sum(reward) if self.reduce == "sum" else jnp.mean(reward)
        return jnp.broadcast_to(total, reward.shape)


@struct.dataclass
class ProsocialReward(RewardWrapper):
    """Pay a mixture of the own reward and the mean of the others': s r_i + (1 - s) / (N - 1) sum of r_j over j != i.

    s = 1 leaves rewards as they are, s = 1/N is the common mean, s = 0 is pure altruism.
    """

    selfishness: Any = field(0.5, doc="s, weight of the own reward, in [0, 1]; a number or [N]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "selfishness", 0.0, 1.0)

    def changed(self, reward: jax.Array, extras: dict[str, Any]) -> jax.Array:
        """[N] mixture of `reward` [N]."""
        del extras
        return self.selfishness * reward + (1 - self.selfishness) * mean_of_others(reward)


# --- comparing oneself ------------------------------------------------------------------------------


@struct.dataclass
class TraceState:
    """State of `InequityAversion`.

    Attributes:
      inner: state of the wrapped environment.
      trace: [N] float32, decaying sum e of each agent's rewards in this episode.
    """

    inner: Any
    trace: jax.Array


@struct.dataclass
class InequityAversion(RewardWrapper):
    """Subtract envy and guilt (Hughes et al. 2018, "Inequity aversion improves cooperation in intertemporal social dilemmas").

    With traces e_i <- gamma lambda e_i + r_i, zero at the reset, agent i is paid

        r_i - alpha / (N - 1) sum_j max(e_j - e_i, 0) - beta / (N - 1) sum_j max(e_i - e_j, 0)
    """

    alpha: Any = field(5.0, doc="aversion to having less than others, >= 0; a number or [N]")
    beta: Any = field(0.05, doc="aversion to having more than others, >= 0; a number or [N]")
    trace_decay: float = field(0.975, doc="lambda, in [0, 1]")
    discount: float = field(0.99, doc="gamma, in [0, 1]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "alpha", 0.0)
        check_range(self, "beta", 0.0)
        check_range(self, "trace_decay", 0.0, 1.0)
        check_range(self, "discount", 0.0, 1.0)

    def inner_state(self, state: TraceState) -> Any:
        """State of the wrapped environment inside `state`."""
        return state.inner

    def reset(self, key: jax.Array) -> tuple[TraceState, TimeStep]:
        """Start an episode with all traces at 0. `key`: [] PRNG key."""
        inner, timestep = self.environment.reset(key)
        return TraceState(inner, jnp.zeros(self.num_agents, jnp.float32)), repaid(timestep, timestep.reward)

    def step(self, state: TraceState, actions: jax.Array) -> tuple[TraceState, TimeStep]:
        """Advance the wrapped environment by `actions`, update the traces, and change the reward."""
        inner, timestep = self.environment.step(state.inner, actions)
        trace = self.discount * self.trace_decay * state.trace + timestep.reward
        return TraceState(inner, trace), repaid(timestep, averse(timestep.reward, trace, self.alpha, self.beta))


def averse(reward: jax.Array, trace: jax.Array, alpha: Any, beta: Any) -> jax.Array:
    """[N] float32 reward less envy and guilt; the equation stands at `InequityAversion`.

    Args:
      reward: [N]. trace: [N]. alpha, beta: numbers or [N].
    """
    lead = trace[None, :] - trace[:, None]
    others = max(reward.shape[0] - 1, 1)
    envy, guilt = jnp.sum(jnp.maximum(lead, 0), axis=1), jnp.sum(jnp.maximum(-lead, 0), axis=1)
    return reward - alpha / others * envy - beta / others * guilt


@struct.dataclass
class SocialValueOrientation(RewardWrapper):
    """Subtract the distance between the reward angle and a preferred one (McKee et al. 2020, "Social diversity and social preferences").

    The angle is theta_i = atan2(mean of the others' rewards, r_i); agent i is paid r_i - w |theta_i - theta*|. The
    second term is 0 where own and others' rewards are both 0 (own choice: the angle is undefined there).
    """

    angle: Any = field(np.pi / 4, doc="theta*, preferred angle, -pi to pi: 0 selfish, pi/2 altruistic", unit="rad")
    weight: Any = field(0.2, doc="w, >= 0; a number or [N]", unit="reward/rad")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "angle", -np.pi, np.pi)
        check_range(self, "weight", 0.0)

    def changed(self, reward: jax.Array, extras: dict[str, Any]) -> jax.Array:
        """[N] `reward` [N] less the weighted distance of angles."""
        del extras
        others = mean_of_others(reward)
        empty = (reward == 0) & (others == 0)
        # atan2 has no derivative at the origin: look elsewhere where the result is not used.
        theta = jnp.arctan2(others, jnp.where(empty, 1.0, reward))
        return reward - jnp.where(empty, 0.0, self.weight * jnp.abs(theta - self.angle))


# --- sanctions --------------------------------------------------------------------------------------


@struct.dataclass
class SanctionCosts(RewardWrapper):
    """Make shooting cost the shooter and being hit cost the one who is hit.

    Reads two counts [N] of every step from the environment's extras: shots fired by each agent and hits taken by it.

    Raises:
      LookupError: when first used, if the environment does not report these counts.
    """

    shot_cost: Any = field(0.0, doc="subtracted from the shooter for each shot, >= 0; a number or [N]", unit="reward")
    hit_cost: Any = field(0.0, doc="subtracted from the agent hit, for each hit, >= 0; a number or [N]", unit="reward")
    shots: str = field("shots", static=True, doc="entry of extras [N]: shots fired in this step")
    hits: str = field("hits", static=True, doc="entry of extras [N]: hits taken in this step")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "shot_cost", 0.0)
        check_range(self, "hit_cost", 0.0)

    def changed(self, reward: jax.Array, extras: dict[str, Any]) -> jax.Array:
        """[N] `reward` [N] less the costs of this step's shots and hits."""
        for name in (self.shots, self.hits):
            if name not in extras:
                raise LookupError(
                    f"{type(self.unwrapped).__name__} reports no {name!r} (it has {', '.join(sorted(extras))}); name "
                    "the counts with shots= and hits= (fields of SanctionCosts)"
                )
        shots, hits = (jnp.asarray(extras[name], jnp.float32) for name in (self.shots, self.hits))
        return reward - self.shot_cost * shots - self.hit_cost * hits
