"""QMIX: `qmix`. The team's value is a monotonic function of its agents' values that depends on the state (Rashid et al. 2018).

The mixer's equations stand in `mixers`; training needs the global state, execution does not.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.mixers import MonotonicMixer
from marl_bench.algorithms.networked import require_global_state
from marl_bench.algorithms.vdn import VDN
from marl_bench.environment import Environment, check_integer, field


@struct.dataclass
class QMIX(VDN):
    """Q-learning on a monotonic mixture of the agents' values. Raises as `QLearning`."""

    mixing_size: int = field(32, static=True, doc="units of the mixer's hidden layer", unit="units")
    hypernet_sizes: tuple[int, ...] = field(
        (64,), static=True, doc="hidden layers of the networks that give the mixer's weights; () as in the first paper"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "mixing_size", 1)
        sizes = self.hypernet_sizes
        if not isinstance(sizes, tuple) or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise TypeError(f"hypernet_sizes={sizes!r}: must be a tuple of positive integers (field of {self._kind})")

    @property
    def reads_state(self) -> bool:
        """True."""
        return True

    def validate(self, environment: Environment) -> None:
        """Also check that the world has a global state."""
        super().validate(environment)
        require_global_state(environment, "qmix", "vdn")

    def mixer(self, state_size: int, num_agents: int) -> MonotonicMixer:
        """The mixer of this learner's sizes."""
        return MonotonicMixer(state_size, num_agents, self.mixing_size, self.hypernet_sizes)

    def init_networks(self, key: jax.Array, source: Environment) -> dict[str, Any]:
        """The agents' networks and the mixer, whose one slot all agents share."""
        key_agents, key_mixer = jax.random.split(key)
        mixer = self.mixer(require_global_state(source, "qmix", "vdn"), source.num_agents)
        return {**super().init_networks(key_agents, source), "mixer": jax.vmap(mixer.init)(key_mixer[None])}

    def joint(self, networks: Any, values: jax.Array, state: jax.Array | None) -> jax.Array:
        """[..., 1] value of the team from values [..., N] and global states [..., S]."""
        assert state is not None
        params = jax.tree.map(lambda leaf: leaf[0], networks["mixer"])
        mixed = self.mixer(state.shape[-1], values.shape[-1]).apply(params, values, state)
        return jnp.expand_dims(mixed, -1)
