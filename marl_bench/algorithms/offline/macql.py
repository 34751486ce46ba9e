"""MACQL for discrete actions: `macql`. Conservative about joint actions (the rival in Shao et al. 2023, `raw_cql` as released)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.distributions import MASKED
from marl_bench.algorithms.mixers import Mixture, Sum
from marl_bench.algorithms.offline import conservative
from marl_bench.algorithms.offline.mixed import MixedQLearner
from marl_bench.environment import check_choice, check_integer, field
from marl_bench.learner import world_of

ILLEGAL = ("zero", "-inf")
MOST = 20_000
"""Joint actions that are enumerated at most."""


@struct.dataclass
class MACQL(MixedQLearner):
    """QMIX on recorded episodes with a conservative term over joint actions. Raises as `MixedQLearner`."""

    joint_actions: int = field(
        100, static=True, doc="joint actions drawn in each step, uniformly, legal or not [M]; 0: all A^N are enumerated"
    )
    macql_mask: str = field(
        "zero", static=True, doc="value of a joint action with an illegal part: zero (as released), -inf (left out)"
    )
    conservative_weight: float = field(5.0, doc="weight of the conservative term [alpha]; 0: plain Q-learning")
    data_action: bool = field(False, static=True, doc="add the joint action of the data to those drawn")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "joint_actions", 0)
        check_choice(self, "macql_mask", ILLEGAL)
        if not isinstance(self.data_action, bool):
            raise TypeError(f"data_action={self.data_action!r}: must be True or False (field of {self._kind})")

    def validate(self, environment: Any) -> None:
        """Also check that there are not too many joint actions to enumerate."""
        super().validate(environment)
        world = world_of(environment)
        if not self.joint_actions and world.num_actions**world.num_agents > MOST:
            raise ValueError(
                f"joint_actions=0: {type(world.unwrapped).__name__} has {world.num_actions}^{world.num_agents} joint actions, "
                f"more than {MOST}; draw some, e.g. joint_actions=100 (field of {self._kind})"
            )

    def penalty(
        self,
        mixture: Mixture | Sum,
        q: jax.Array,
        chosen: jax.Array,
        mask: jax.Array,
        log_behaviour: jax.Array | None,
        key: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """log sum_m exp Q(a^m); see `MixedQLearner.penalty`."""
        del log_behaviour
        num_agents, num_actions = q.shape[-2:]
        if self.joint_actions:
            shape = (*q.shape[:-2], self.joint_actions, num_agents)
            actions = conservative.sampled_joint_actions(key, shape, num_actions)
        else:
            actions = jnp.asarray(conservative.every_joint_action(num_agents, num_actions))
        actions = jnp.broadcast_to(actions, (*q.shape[:-2], *actions.shape[-2:]))
        # One gather for values and legality: it takes half the time of comparisons with every action.
        found = jnp.where(mask, q, MASKED)[..., None, :, :]
        found = jnp.take_along_axis(found, actions[..., None], axis=-1, mode="promise_in_bounds")[..., 0]
        allowed = found > MASKED
        values, legal = mixture.some(jnp.where(allowed, found, 0.0)), jnp.all(allowed, axis=-1)
        if self.macql_mask == "zero":
            values, legal = jnp.where(legal, values, 0.0), jnp.ones_like(legal)
        if self.data_action:
            values = jnp.concatenate([values, mixture.joint(chosen)[..., None]], axis=-1)
            legal = jnp.pad(legal, [(0, 0)] * (legal.ndim - 1) + [(0, 1)], constant_values=True)
        # Where nothing legal was drawn there is nothing to push down, and then nothing to push up.
        soft = jnp.where(jnp.any(legal, axis=-1), conservative.log_sum_exp(values, legal), mixture.joint(chosen))
        return soft, {}
