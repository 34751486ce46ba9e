"""What `iql_offline` and `awac` share: imitation, weighted by how much better than usual the recorded action is.

Twin critics Q_c of each agent, their slow copies Q', and a value v of what an agent sees, which the two learn in different ways:

    y        = r + gamma d v(s'),                 A = min_c Q'_c(s, a) - v(s)
    critics: mean of sum_c (Q_c(s, a) - y)^2,     policy: -mean of min(exp(A * temperature), limit) log pi(a | o)

Sources: Nair et al. 2020 (AWAC, arXiv 2006.09359), Kostrikov et al. 2021 (IQL, arXiv 2110.06169), and, for numbered actions, the code of
Shao et al. 2023. Every agent has its own reward; all networks take their steps at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.networked import is_discrete
from marl_bench.algorithms.offline.actor_critic import ActorCriticLearner
from marl_bench.algorithms.offline.policies import in_units
from marl_bench.algorithms.offline.recurrent import OfflineState, valid_mean
from marl_bench.algorithms.value_based import picked
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, check_range, field


class Seen(NamedTuple):
    """Rows of episodes: `batch`; `read` [T + 1, R, N, I], what critics read; `outputs` [T + 1, R, N, K] of the actors, no gradient."""

    batch: Sequence
    read: jax.Array
    outputs: jax.Array


@struct.dataclass
class AdvantageLearner(ActorCriticLearner):
    """Base of `IQLOffline` and `AWAC`. Raises as `ActorCriticLearner`."""

    temperature: float = field(
        3.0, doc="how much advantages decide the weight of a recorded action [beta]; 0: imitation"
    )
    weight_limit: float = field(100.0, doc="largest weight of a recorded action")
    target_rate: float = field(0.005, doc="part of the way that targets go in an update, in (0, 1]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "temperature", 0.0)
        check_range(self, "weight_limit", 0.0, open_low=True)
        check_range(self, "target_rate", 0.0, 1.0, open_low=True)

    # --- critics ----------------------------------------------------------------------------------

    def init_networks(self, key: jax.Array, env: Environment) -> dict[str, Any]:
        """The policies, "critic" [G, C, ...], and what else a learner has."""
        key_actor, key_critic = jax.random.split(key)
        network = self.critic(env, env.num_actions or 1, not is_discrete(env))
        return {**self.init_policy(key_actor, env), "critic": self.init_twins(key_critic, env, network)}

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineState:
        """Draw networks; the target is a copy of the critics."""
        env = source.environment
        key_networks, key_run = jax.random.split(key)
        networks = self.init_networks(key_networks, env)
        return self.first_state(networks, {"critic": jax.tree.map(jnp.copy, networks["critic"])}, key_run, env)

    def action_values(self, params: Any, env: Environment, read: jax.Array, action: jax.Array) -> jax.Array:
        """[C, T, R, N] values of actions [T, R, N] or, in units of the bounds, [T, R, N, D]."""
        if not is_discrete(env):
            return self.q_values(params, env, jnp.concatenate([read, action], axis=-1))[..., 0]
        return jax.vmap(picked, (0, None))(self.q_values(params, env, read), action)

    # --- learning ---------------------------------------------------------------------------------

    def state_values(self, networks: Any, target: Any, env: Environment, seen: Seen, key: jax.Array) -> jax.Array:
        """[T + 1, R, N] v of what was seen.

        Args:
          seen: all rows. key: [] typed PRNG key.
        """
        raise NotImplementedError(f"{self._kind} must define state_values")

    def value_error(self, advantage: jax.Array) -> jax.Array | None:
        """[T, R, N] what v is to minimise, of advantages [T, R, N]; None if v does not learn."""
        del advantage
        return None

    def loss(
        self, networks: Any, target: Any, env: Environment, batch: Sequence, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Losses of critics, policy and v, summed: each network has a gradient from its own; scalars to log."""
        read, valid, action = self.read(env, batch), batch.valid, batch.action[:-1]
        action = action if is_discrete(env) else in_units(action, env)
        outputs = self.unrolled(networks["actor"], env, batch)
        value = self.state_values(networks, target, env, Seen(batch, read, jax.lax.stop_gradient(outputs)), key)
        following = jax.lax.stop_gradient(value[1:])
        goal = batch.reward[:-1] + self.discount * batch.discount[:-1] * following
        q = self.action_values(networks["critic"], env, read[:-1], action)
        critic_loss = valid_mean(jnp.sum(jnp.square(q - goal), axis=0), valid)
        held = jnp.min(self.action_values(target["critic"], env, read[:-1], action), axis=0)
        advantage = held - value[:-1]
        weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(self.temperature * advantage), self.weight_limit))
        policy_loss = -valid_mean(weight * self.log_prob(networks, env, outputs[:-1], batch), valid)
        loss = critic_loss + policy_loss
        metrics = {"critic_loss": critic_loss, "policy_loss": policy_loss}
        error = self.value_error(advantage)
        if error is not None:
            metrics["value_loss"] = valid_mean(error, valid)
            loss += metrics["value_loss"]
        shown = {"value": value[:-1], "advantage": advantage, "weight": weight}
        return loss, metrics | {name: valid_mean(of, valid) for name, of in shown.items()}

    def next_target(self, target: Any, networks: Any, updates: jax.Array) -> Any:
        """Targets, `target_rate` of the way on."""
        del updates
        following = {name: networks[name] for name in target}
        return jax.tree.map(lambda old, new: old + self.target_rate * (new - old), target, following)
