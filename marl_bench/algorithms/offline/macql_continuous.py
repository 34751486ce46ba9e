"""MACQL for continuous actions: `macql_continuous`, the rival in Shao et al. 2023: `cfcql_continuous` about joint actions.

The soft maximum is taken over M joint actions that are drawn as a whole, with the density of the whole; all else is the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.offline.central import CentralCQL
from marl_bench.algorithms.offline.minibatch import Minibatch


@struct.dataclass
class MACQLContinuous(CentralCQL):
    """Twin critics that see everything, conservative about joint actions. Raises as `CentralCQL`."""

    def soft_value(
        self, critic: Any, networks: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """See `OfflineTD3.soft_value`: the soft maximum over joint actions."""
        drawn = self.drawn(networks, agents, batch, key).values()
        action, density = (jnp.concatenate(parts, axis=1) for parts in zip(*drawn, strict=True))
        joint = jnp.moveaxis(action, 0, 2)
        joint = joint.reshape(1, *joint.shape[:2], -1)
        network = self.critic(batch.read.shape[-1], joint.shape[-1])
        value = slots.over_agents(network.joint, self.judges(agents))(critic, batch.read, joint)
        return self.soft_maximum(value, jnp.sum(density, axis=0)), self.conservative_weight, {}
