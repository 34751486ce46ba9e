"""Advantage-weighted actor-critic for each agent: `awac` (Nair et al. 2020, arXiv 2006.09359; as released by Shao et al. 2023).

The value of what is seen is that of what the learned policy does there.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.networked import is_discrete
from marl_bench.algorithms.offline.advantage import AdvantageLearner, Seen
from marl_bench.algorithms.offline.recurrent import log_policy
from marl_bench.environment import Environment, check_integer, field


@struct.dataclass
class AWAC(AdvantageLearner):
    """Values of the learned policy and weighted imitation. Raises as `AdvantageLearner`."""

    value_actions: int = field(
        1, static=True, doc="actions drawn from the policy for its value, if actions are vectors; else all are judged"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "value_actions", 1)

    def state_values(self, networks: Any, target: Any, env: Environment, seen: Seen, key: jax.Array) -> jax.Array:
        """Mean over the policy's actions of min_c Q'_c, no gradient; see `AdvantageLearner.state_values`."""
        if is_discrete(env):
            assert seen.batch.mask is not None
            chance = jnp.exp(log_policy(seen.outputs, seen.batch.mask))
            return jnp.sum(chance * jnp.min(self.q_values(target["critic"], env, seen.read), axis=0), axis=-1)
        policy = jax.lax.stop_gradient(self.normal(networks, env, seen.outputs))
        noise = jax.random.normal(key, (self.value_actions, *seen.outputs.shape))
        drawn = jnp.clip(policy.sample(noise), -1.0, 1.0)
        value = jax.vmap(lambda action: self.action_values(target["critic"], env, seen.read, action))(drawn)
        return jnp.mean(jnp.min(value, axis=1), axis=0)
