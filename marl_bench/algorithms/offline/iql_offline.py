"""Implicit Q-learning for each agent: `iql_offline` (Kostrikov et al. 2021, arXiv 2110.06169; as released by Shao et al. 2023).

No action that is not in the data is ever judged: the value of what is seen is an expectile of the recorded actions' values.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.offline.advantage import AdvantageLearner, Seen
from marl_bench.environment import Environment, check_range, field


@struct.dataclass
class IQLOffline(AdvantageLearner):
    """Expectile values and weighted imitation. Raises as `AdvantageLearner`."""

    expectile: float = field(
        0.7, doc="which expectile of the recorded actions' values v is, in (0, 1) [tau]; 0.5: their mean"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "expectile", 0.0, 1.0, open_low=True, open_high=True)

    def init_networks(self, key: jax.Array, env: Environment) -> dict[str, Any]:
        """Also "value", a network of its own for v."""
        key_value, key_rest = jax.random.split(key)
        value = self.init_slots(self.critic(env, 1, False), key_value, env)
        return {**super().init_networks(key_rest, env), "value": value}

    def state_values(self, networks: Any, target: Any, env: Environment, seen: Seen, key: jax.Array) -> jax.Array:
        """v of its network; see `AdvantageLearner.state_values`."""
        del target, key
        return self.judged(networks["value"], env, seen.read)[..., 0]

    def value_error(self, advantage: jax.Array) -> jax.Array:
        """|tau - [A < 0]| A^2."""
        return jnp.where(advantage < 0, 1.0 - self.expectile, self.expectile) * jnp.square(advantage)
