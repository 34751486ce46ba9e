"""Independent conservative Q-learning for discrete actions: `cql` (Kumar et al. 2020, arXiv 2006.04779; `indq` in the code of Shao
et al. 2023).

Each agent has its own values, reward and conservative term:

    L = mean over steps and agents of (Q_i(o, a_i) - y_i)^2 / 2 + conservative_weight (log sum_k exp Q_i(o, k) - Q_i(o, a_i))
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.offline.conservative import log_sum_exp
from marl_bench.algorithms.offline.double_q import DoubleQLearner
from marl_bench.algorithms.offline.recurrent import OfflineState, returns, valid_mean
from marl_bench.algorithms.value_based import picked
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment


@struct.dataclass
class CQL(DoubleQLearner):
    """Conservative Q-learning of each agent as if alone. Raises as `DoubleQLearner`."""

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineState:
        """Draw networks; the target is a copy."""
        env = source.environment
        key_agents, key_run = jax.random.split(key)
        networks = {"q": self.init_agents(key_agents, env, env.num_actions)}
        return self.first_state(networks, jax.tree.map(jnp.copy, networks), key_run, env)

    def loss(
        self, networks: Any, target: Any, env: Environment, batch: Sequence, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Temporal differences and conservative term, summed; scalars to log."""
        del key
        assert batch.mask is not None
        q = self.unrolled(networks["q"], env, batch)
        following = self.best_values(target, env, batch, q)
        wanted = returns(batch, batch.reward[:-1], batch.discount[:-1], following, self.discount, self.td_lambda)
        value = picked(q[:-1], batch.action[:-1])
        td = valid_mean(0.5 * jnp.square(value - jax.lax.stop_gradient(wanted)), batch.valid)
        term = valid_mean(log_sum_exp(q[:-1], batch.mask[:-1]) - value, batch.valid)
        metrics = {"td_loss": td, "conservative": term, "value": valid_mean(value, batch.valid)}
        return td + self.conservative_weight * term, metrics
