"""Imitation: `bc`. Each agent learns what its predecessor in the data did (behaviour cloning; Shao et al. 2023, as released)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.networked import is_discrete
from marl_bench.algorithms.offline.policies import PolicyLearner, in_units
from marl_bench.algorithms.offline.recurrent import OfflineState, valid_mean
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, field


@struct.dataclass
class BC(PolicyLearner):
    """Maximum likelihood of numbered actions; least squares of vectors. Raises as `PolicyLearner`."""

    learning_rate: float = field(5e-4, doc="Adam step size")

    @property
    def gaussian(self) -> bool:
        """False: least squares."""
        return False

    def init(self, key: jax.Array, source: OfflineSource) -> OfflineState:
        """Draw the policies."""
        key_actor, key_run = jax.random.split(key)
        return self.first_state(self.init_policy(key_actor, source.environment), {}, key_run, source.environment)

    def loss(
        self, networks: Any, target: Any, env: Environment, batch: Sequence, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean over valid steps and agents of -log pi(a | o), or of the mean square of tanh(z(o)) - u."""
        del target, key
        outputs = self.unrolled(networks["actor"], env, batch)[:-1]
        if is_discrete(env):
            error = -self.log_prob(networks, env, outputs, batch)
        else:
            error = jnp.mean(jnp.square(jnp.tanh(outputs) - in_units(batch.action[:-1], env)), axis=-1)
        loss = valid_mean(error, batch.valid)
        return loss, {"loss": loss}
