"""Multi-agent TD3: `matd3` (Ackermann et al. 2019), MADDPG with the three remedies of Fujimoto et al. 2018 against overestimation.

Two critics an agent, the smaller of which is the target; the actors and all targets move after every `policy_delay` critic steps
only; and the target policies' actions are blurred, so that a critic's narrow peak is not exploited.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.ddpg import DDPG
from marl_bench.environment import check_integer, check_range, field


@struct.dataclass
class MATD3(DDPG):
    """Deterministic policies, twin centralised critics. Raises as `DDPG`."""

    policy_delay: int = field(2, static=True, doc="critic steps before each step of actors and targets [d]")
    target_noise: float = field(
        0.2, doc="blur of the target policies' actions, standard deviation", unit="half widths of the bounds"
    )
    target_noise_clip: float = field(0.5, doc="largest blur [c]", unit="half widths of the bounds")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "policy_delay", 1)
        steps = self.num_steps * self.updates_per_step
        if steps % self.policy_delay:
            raise ValueError(
                f"policy_delay={self.policy_delay}: must divide num_steps * updates_per_step = {steps} (fields of {self._kind})"
            )
        for name in ("target_noise", "target_noise_clip"):
            check_range(self, name, 0.0)

    @property
    def num_critics(self) -> int:
        """Two."""
        return 2

    @property
    def delay(self) -> int:
        """`policy_delay`."""
        return self.policy_delay

    def target_action(self, action: jax.Array, key: jax.Array) -> jax.Array:
        """[N, n, D] clip(u' + clip(target_noise * normal, -c, c), -1, 1) (Fujimoto et al. 2018, eq. 14 and 15)."""
        noise = self.target_noise * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -self.target_noise_clip, self.target_noise_clip)
        return jnp.clip(action + noise, -1.0, 1.0)
