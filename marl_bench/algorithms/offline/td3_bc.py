"""TD3+BC for each agent alone: `td3_bc` (Fujimoto and Gu 2021, arXiv 2106.06860), policies held near the data by imitation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.offline.minibatch import Minibatch
from marl_bench.algorithms.offline.td3 import OfflineTD3
from marl_bench.environment import check_range, field


@struct.dataclass
class TD3BC(OfflineTD3):
    """Independent TD3 whose policies also imitate. Raises as `OfflineTD3`."""

    action_penalty: float = field(0.0, doc="weight of the mean square of the policies' actions")
    value_weight: float = field(
        2.5, doc="weight of the value, in units of its mean size, against imitation [alpha]; 0: imitation alone"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "value_weight", 0.0)

    def policy_terms(
        self, action: jax.Array, value: Any, batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """-alpha mean Q_1 / mean |Q_1| + mean (pi - a)^2 (eq. 5); see `OfflineTD3.policy_terms`."""
        del key
        found = value(action[:, None])[:, 0]
        size = jnp.mean(jnp.abs(jax.lax.stop_gradient(found)), axis=-1)
        imitation = jnp.mean(jnp.square(action - batch.action), axis=(1, 2))
        gain = jnp.mean(found, axis=-1) / jnp.maximum(size, 1e-6)
        return imitation - self.value_weight * gain, {"imitation": jnp.mean(imitation)}
