"""Conservative Q-learning on a mixture of agents' values: what `cfcql` and `macql` share.

The released learner is QMIX on recorded episodes (Shao et al. 2023): double Q-learning (`double_q`) and a conservative term R
(`conservative`):

    L = mean of (Q(s, a) - y)^2 / 2 + conservative_weight * mean of R

A model beta of the policy of the data learns by imitation, with parameters of its own, from the batches that the values learn
from.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.mixers import Mixture, MonotonicMixer, Sum
from marl_bench.algorithms.networked import require_global_state
from marl_bench.algorithms.offline import conservative
from marl_bench.algorithms.offline.double_q import DoubleQLearner
from marl_bench.algorithms.offline.recurrent import OfflineState, log_policy, returns, started, valid_mean
from marl_bench.algorithms.value_based import TEAM_REWARD_DOC, TEAM_REWARDS, picked, reward_is_common, team_paid
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, check_choice, check_integer, check_range, field

MIXERS = ("qmix", "sum")


@struct.dataclass
class MixedQLearner(DoubleQLearner):
    """Base of `CFCQL` and `MACQL`, which differ in `penalty`.

    Raises:
      ValueError: for values out of range. TypeError: for values of the wrong type.
    """

    mixer: str = field("qmix", static=True, doc="how values become the team's: qmix (by the state), sum (as in VDN)")
    mixing_size: int = field(32, static=True, doc="units of the mixer's hidden layer", unit="units")
    hypernet_sizes: tuple[int, ...] = field(
        (64,), static=True, doc="hidden layers of the networks that give the mixer's weights"
    )
    team_reward: str = field("common", static=True, doc=TEAM_REWARD_DOC)
    behaviour: bool = field(
        True, static=True, doc="learn the policy of the data: for weights by deviation, and to measure divergences"
    )
    behaviour_updates: int = field(
        0, doc="first updates, in which only the policy of the data is learned", unit="updates"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "mixer", MIXERS)
        check_choice(self, "team_reward", TEAM_REWARDS)
        check_integer(self, "mixing_size", 1)
        sizes = self.hypernet_sizes
        if not isinstance(sizes, tuple) or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise TypeError(f"hypernet_sizes={sizes!r}: must be a tuple of positive integers (field of {self._kind})")
        if not isinstance(self.behaviour, bool):
            raise TypeError(f"behaviour={self.behaviour!r}: must be True or False (field of {self._kind})")
        check_range(self, "behaviour_updates", 0)

    @property
    def waiting_updates(self) -> int:
        """`behaviour_updates`, where the data are modelled at all."""
        return int(self.behaviour_updates) if self.behaviour else 0

    def validate(self, environment: Any) -> None:
        """Also check that a mixer that reads the global state finds one."""
        super().validate(environment)
        if self.mixer == "qmix":
            self.require_states(environment, f"{self.name} learner.mixer=sum")

    # --- networks ---------------------------------------------------------------------------------

    def monotonic(self, state_size: int, num_agents: int) -> MonotonicMixer:
        """The mixer of this learner's sizes."""
        return MonotonicMixer(state_size, num_agents, self.mixing_size, self.hypernet_sizes)

    def mixture(self, networks: Any, num_agents: int, state: jax.Array | None) -> Mixture | Sum:
        """How values are joined in global states [..., S]."""
        if self.mixer == "sum":
            return Sum()
        assert state is not None
        params = jax.tree.map(lambda leaf: leaf[0], networks["mixer"])
        return self.monotonic(state.shape[-1], num_agents).weights(params, state)

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineState:
        """Draw networks; the target is a copy."""
        env = source.environment
        key_agents, key_mixer, key_behaviour, key_run = jax.random.split(key, 4)
        networks = {"q": self.init_agents(key_agents, env, env.num_actions)}
        if self.mixer == "qmix":
            size = require_global_state(env, self._kind.lower(), self.counterpart)
            networks["mixer"] = jax.vmap(self.monotonic(size, env.num_agents).init)(key_mixer[None])
        target = jax.tree.map(jnp.copy, networks)
        if self.behaviour:
            networks["behaviour"] = self.init_agents(key_behaviour, env, env.num_actions)
        return self.first_state(networks, target, key_run, env)

    # --- learning ---------------------------------------------------------------------------------

    def penalty(
        self,
        mixture: Mixture | Sum,
        q: jax.Array,
        chosen: jax.Array,
        mask: jax.Array,
        log_behaviour: jax.Array | None,
        key: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """[T, R] log-sum-exp of the conservative term, without the value of the data's action; and scalars to log.

        Args:
          mixture: of the states. q: [T, R, N, A] action values. chosen: [T, R, N] those of the data's actions.
          mask: [T, R, N, A] legal actions. log_behaviour: [T, R, N, A] of the model, no gradient; None without one.
          key: [] typed PRNG key.
        """
        raise NotImplementedError(f"{self._kind} must define penalty")

    def targets(self, target: Any, env: Environment, batch: Sequence, q: jax.Array) -> jax.Array:
        """[T, R] TD(lambda) targets (`returns`) from Q'(s', a*), a* by the learned values.

        Args:
          target: target networks. q: [T + 1, R, N, A] learned values.
        """
        best = self.best_values(target, env, batch, q)
        state = None if batch.state is None else batch.state[1:]
        following = self.mixture(target, env.num_agents, state).joint(best)
        reward, discount = (x[..., 0] for x in team_paid(self.team_reward, batch.reward[:-1], batch.discount[:-1]))
        return returns(batch, reward, discount, following, self.discount, self.td_lambda)

    def loss(
        self, networks: Any, target: Any, env: Environment, batch: Sequence, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Temporal differences, conservative term and imitation, summed; scalars to log."""
        assert batch.mask is not None
        q, valid, mask, action = (
            self.unrolled(networks["q"], env, batch),
            batch.valid,
            batch.mask[:-1],
            batch.action[:-1],
        )
        wanted = jax.lax.stop_gradient(self.targets(target, env, batch, q))
        chosen = picked(q[:-1], action)
        mixture = self.mixture(networks, env.num_agents, None if batch.state is None else batch.state[:-1])
        value = mixture.joint(chosen)
        td = valid_mean(0.5 * jnp.square(value - wanted), valid)
        metrics = {"td_loss": td, "value": valid_mean(value, valid)}
        imitation, log_behaviour = jnp.float32(0.0), None
        if self.behaviour:
            log_behaviour = log_policy(self.unrolled(networks["behaviour"], env, batch)[:-1], mask)
            imitation = -valid_mean(jnp.mean(picked(log_behaviour, action), axis=-1), valid)
            log_behaviour = jax.lax.stop_gradient(log_behaviour)
            metrics |= {"behaviour_loss": imitation, **self.divergences(q[:-1], mask, log_behaviour, valid)}
        soft, more = self.penalty(mixture, q[:-1], chosen, mask, log_behaviour, key)
        term = valid_mean(soft - value, valid)
        metrics |= {"conservative": term, **{name: valid_mean(scalar, valid) for name, scalar in more.items()}}
        if self.team_reward == "common":
            metrics["reward_is_common"] = reward_is_common(batch.reward)
        return td + self.conservative_weight * term + imitation, metrics

    def divergences(
        self, q: jax.Array, mask: jax.Array, log_behaviour: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        """Logarithms of the mean D_CF and the mean D_MA of the agents' own softmax policies from those of the data."""
        log_target = log_policy(jax.lax.stop_gradient(q), mask)
        logs = conservative.log_divergences(conservative.log_chi_square(log_target, log_behaviour, mask))
        alone, joint = (conservative.log_mean(log, valid) for log in logs)
        return {"log_d_cf": alone, "log_d_ma": joint}

    @property
    def clipped_together(self) -> tuple[str, ...]:
        """The agents' networks and the mixer."""
        return ("q", "mixer") if self.mixer == "qmix" else ("q",)

    def update(self, state: OfflineState, source: OfflineSource) -> tuple[OfflineState, dict[str, jax.Array]]:
        """One gradient step on `batch_size` episodes; in the first `behaviour_updates` only of the policy of the data."""
        following, metrics = super().update(state, source)
        if not self.behaviour:
            return following, metrics
        return started(state.updates >= self.behaviour_updates, state, following), metrics
