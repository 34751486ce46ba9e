"""Implicit constraint Q-learning of a team: `icq` (Yang et al. 2021, arXiv 2106.03400; MAICQ in the code of Shao et al. 2023).

The critics learn the value of the data's own joint actions, those of better episodes of the batch more; each agent's policy
imitates the data's actions, the better ones more. No action outside the data is ever judged:

    critics: mean of (Q(s, a) - y)^2,             Q monotonic in q_i(o_i, s, a_i); y the TD(lambda) target of w_b Q'(s', a')
    policy: -mean of sum_i k_i(s) w_b log pi_i,   w_b = B softmax_b(scores / temperature), of a time's B episodes
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.mixers import Mixture, MonotonicMixer
from marl_bench.algorithms.networked import require_global_state
from marl_bench.algorithms.offline.recurrent import OfflineState, log_policy, returns, valid_mean
from marl_bench.algorithms.offline.stepped import SteppedCriticLearner, batch_weights
from marl_bench.algorithms.value_based import TEAM_REWARD_DOC, TEAM_REWARDS, picked, reward_is_common, team_paid
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, check_choice, check_integer, check_range, field


@struct.dataclass
class ICQ(SteppedCriticLearner):
    """Weighted imitation with a mixed critic of the data's actions. Raises as `SteppedCriticLearner`."""

    learning_rate: float = field(5e-4, doc="Adam step size of the policies")
    critic_learning_rate: float = field(1e-4, doc="Adam step size of the critics and the mixer")
    td_lambda: float = field(0.8, doc="weight of longer returns in the targets [lambda], in [0, 1]; 0: one step")
    mixing_size: int = field(32, static=True, doc="units of the mixer's hidden layer", unit="units")
    team_reward: str = field("common", static=True, doc=TEAM_REWARD_DOC)
    policy_temperature: float = field(0.1, doc="advantages are divided by this before they weigh actions")
    value_temperature: float = field(1000.0, doc="the team's values are divided by this before they weigh targets")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "mixing_size", 1)
        check_choice(self, "team_reward", TEAM_REWARDS)
        check_range(self, "policy_temperature", 0.0, open_low=True)
        check_range(self, "value_temperature", 0.0, open_low=True)

    @property
    def counterpart(self) -> str:
        """The weighted imitation for both kinds of actions."""
        return "iql_offline"

    @property
    def without_state(self) -> str:
        """The weighted imitation that does not mix."""
        return "awac learner.critic_input=views"

    @property
    def reads_state(self) -> bool:
        """True: the mixer reads it in any case."""
        return True

    def monotonic(self, state_size: int, num_agents: int) -> MonotonicMixer:
        """The mixer of this learner's size."""
        return MonotonicMixer(state_size, num_agents, self.mixing_size)

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineState:
        """Draw networks; the target is a copy of the critics and the mixer."""
        env = source.environment
        key_actor, key_critic, key_mixer, key_run = jax.random.split(key, 4)
        mixer = self.monotonic(require_global_state(env, self.name, self.without_state), env.num_agents)
        critics = {
            "critic": self.init_slots(self.critic(env, env.num_actions + 1), key_critic, env),
            "mixer": jax.vmap(mixer.init)(key_mixer[None]),
        }
        networks = {**self.init_policy(key_actor, env), **critics}
        return self.first_state(networks, jax.tree.map(jnp.copy, critics), key_run, env)

    def values(self, params: Any, env: Environment, read: jax.Array) -> jax.Array:
        """[T, R, N, A] action values: a part that all actions share, and one of each."""
        outputs = self.judged(params, env, read)
        return outputs[..., :-1] + outputs[..., -1:]

    def mixture(self, mixer: Any, env: Environment, state: jax.Array | None) -> Mixture:
        """How values are joined in global states [..., S]."""
        assert state is not None
        return self.monotonic(state.shape[-1], env.num_agents).weights(jax.tree.map(lambda x: x[0], mixer), state)

    # --- learning ---------------------------------------------------------------------------------

    def targets(self, networks: Any, target: Any, env: Environment, batch: Sequence, read: jax.Array) -> jax.Array:
        """[T, R] TD(lambda) targets from the data's next joint action; where an episode was cut, from the policies' mean values."""
        assert batch.mask is not None and batch.state is not None
        q = self.values(target["critic"], env, read[1:])
        chance = jnp.exp(log_policy(self.unrolled(networks["actor"], env, batch)[1:], batch.mask[1:]))
        expected = jnp.sum(chance * q, axis=-1)
        chosen = jnp.where(batch.is_last[..., None], expected, picked(q, batch.action[1:]))
        value = self.mixture(target["mixer"], env, batch.state[1:]).joint(chosen)
        value *= batch_weights(value, batch.filled[1:], self.value_temperature)
        reward, discount = (x[..., 0] for x in team_paid(self.team_reward, batch.reward[:-1], batch.discount[:-1]))
        return returns(batch, reward, discount, value, self.discount, self.td_lambda)

    def critic_loss(
        self, critics: Any, env: Environment, batch: Sequence, read: jax.Array, wanted: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mean square of the team's error; see `SteppedCriticLearner.critic_loss`."""
        q = self.values(critics["critic"], env, read)
        value = self.mixture(critics["mixer"], env, batch.state).joint(picked(q, batch.action))
        return valid_mean(jnp.square(value - wanted), batch.valid), q

    def policy_loss(
        self, actor: Any, critics: Any, env: Environment, batch: Sequence, q: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """-sum_i k_i w log pi_i, k the mixer's weight of each agent, |W_1| |w_2| as a part of the sum over agents."""
        assert batch.mask is not None and batch.state is not None
        mixture = self.mixture(critics["mixer"], env, batch.state[:-1])
        share = jnp.sum(mixture.inner * mixture.outer[..., None, :], axis=-1)
        share /= jnp.sum(share, axis=-1, keepdims=True)
        log_pi = log_policy(self.unrolled(actor, env, batch)[:-1], batch.mask[:-1])
        baseline = jnp.sum(jnp.exp(log_pi) * q, axis=-1)
        advantage = picked(q, batch.action[:-1]) - baseline
        weight = batch_weights(advantage, batch.valid, self.policy_temperature)
        weight = jax.lax.stop_gradient(share * weight)
        loss = -valid_mean(jnp.sum(weight * picked(log_pi, batch.action[:-1]), axis=-1), batch.valid)
        metrics = {"policy_loss": loss, "advantage": valid_mean(advantage, batch.valid)}
        if self.team_reward == "common":
            metrics["reward_is_common"] = reward_is_common(batch.reward)
        return loss, metrics
