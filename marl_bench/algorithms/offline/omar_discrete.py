"""OMAR for discrete actions: `omar_discrete` (Pan et al. 2022, arXiv 2111.11188, as adapted in the code of Shao et al. 2023).

Twin critics of each agent with a conservative term, and a policy that follows the advantage of the data's action and the best of all
actions, which takes the place of the search among continuous ones (`omar`):

    critics: sum_c mean of (q_c(a) - y)^2 + conservative_weight (log sum_k exp q_c(k) - q_c(a))
    policy: mean of -(1 - search_weight) A log pi(a) + search_weight |pi - onehot(argmax_k q_1(k))|^2 / A
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.offline.conservative import log_sum_exp
from marl_bench.algorithms.offline.recurrent import OfflineState, log_policy, returns, valid_mean
from marl_bench.algorithms.offline.stepped import SteppedCriticLearner
from marl_bench.algorithms.value_based import best_action, picked
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, check_range, field


@struct.dataclass
class OMARDiscrete(SteppedCriticLearner):
    """Conservative twin critics of each agent, and a policy between theirs and the best action. Raises as its base."""

    conservative_weight: float = field(5.0, doc="weight of the conservative term [alpha]")
    search_weight: float = field(0.5, doc="weight of the best action in the policy's loss, in [0, 1] [omega]")
    legal_only: bool = field(
        False, static=True, doc="search and lower legal actions only; False: all of them, as released"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "conservative_weight", 0.0)
        check_range(self, "search_weight", 0.0, 1.0)
        if not isinstance(self.legal_only, bool):
            raise TypeError(f"legal_only={self.legal_only!r}: must be True or False (field of {self._kind})")

    @property
    def counterpart(self) -> str:
        """OMAR for continuous actions."""
        return "omar"

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineState:
        """Draw networks; the target is a copy of all."""
        env = source.environment
        key_actor, key_critic, key_run = jax.random.split(key, 3)
        critic = self.init_twins(key_critic, env, self.critic(env, env.num_actions))
        networks = {**self.init_policy(key_actor, env), "critic": critic}
        return self.first_state(networks, jax.tree.map(jnp.copy, networks), key_run, env)

    def searched(self, mask: jax.Array | None) -> jax.Array:
        """[..., A] bool: the actions that are searched and lowered."""
        assert mask is not None
        return mask if self.legal_only else jnp.ones_like(mask)

    # --- learning ---------------------------------------------------------------------------------

    def targets(self, networks: Any, target: Any, env: Environment, batch: Sequence, read: jax.Array) -> jax.Array:
        """[T, R, N] TD(lambda) targets from the lower twin's value of the target policy's most likely action."""
        del networks
        assert batch.mask is not None
        action = best_action(self.unrolled(target["actor"], env, batch)[1:], batch.mask[1:])
        q = jnp.min(self.q_values(target["critic"], env, read[1:]), axis=0)
        return returns(batch, batch.reward[:-1], batch.discount[:-1], picked(q, action), self.discount, self.td_lambda)

    def critic_loss(
        self, critics: Any, env: Environment, batch: Sequence, read: jax.Array, wanted: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Squared errors and conservative terms of both twins; see `SteppedCriticLearner.critic_loss`."""
        q = self.q_values(critics["critic"], env, read)
        value = jax.vmap(picked, (0, None))(q, batch.action)
        lowered = log_sum_exp(q, self.searched(batch.mask)) - value
        error = jnp.square(value - wanted) + self.conservative_weight * lowered
        return valid_mean(jnp.sum(error, axis=0), batch.valid), q[0]

    def policy_loss(
        self, actor: Any, critics: Any, env: Environment, batch: Sequence, q: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `SteppedCriticLearner.policy_loss`; advantages carry no gradient."""
        del critics
        assert batch.mask is not None
        mask, action = batch.mask[:-1], batch.action[:-1]
        log_pi = log_policy(self.unrolled(actor, env, batch)[:-1], mask)
        chance = jnp.exp(log_pi)
        advantage = jax.lax.stop_gradient(picked(q, action) - jnp.sum(chance * q, axis=-1))
        followed = -advantage * picked(log_pi, action)
        best = jax.nn.one_hot(best_action(q, self.searched(mask)), q.shape[-1])
        distance = jnp.mean(jnp.square(chance - best), axis=-1)
        loss = valid_mean((1.0 - self.search_weight) * followed + self.search_weight * distance, batch.valid)
        shown = {"advantage": advantage, "distance": distance}
        return loss, {"policy_loss": loss} | {name: valid_mean(of, batch.valid) for name, of in shown.items()}
