"""CFCQL for discrete actions: `cfcql`. Conservative about one agent's action at a time (Shao et al. 2023, arXiv 2309.12696)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.mixers import Mixture, Sum
from marl_bench.algorithms.offline import conservative
from marl_bench.algorithms.offline.mixed import MixedQLearner
from marl_bench.environment import check_range, field


@struct.dataclass
class CFCQL(MixedQLearner):
    """QMIX on recorded episodes with the counterfactual conservative term. Raises as `MixedQLearner`."""

    temperature: float = field(
        5.0,
        doc="how much an agent's deviation from the policy of the data decides its weight [tau]; 0: equal weights, "
        "100 or more: all weight on one agent",
    )
    lambda_sign: float = field(
        1.0, doc="+1: more weight on agents that deviate more (as released), -1: less (as theory suggests)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "temperature", 0.0)
        check_range(self, "lambda_sign", -1.0, 1.0)
        if not self.behaviour and isinstance(self.temperature, (int, float)) and self.temperature != 0:
            raise ValueError(
                f"behaviour=False: weights by deviation need the policy of the data; use temperature=0, not "
                f"{self.temperature} (fields of {self._kind})"
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
        """sum_i lambda_i log sum_k exp Q^{i,k}; see `MixedQLearner.penalty`. lambda carries no gradient."""
        del key
        values = mixture.one_changed(q, chosen)
        soft = conservative.log_sum_exp(values, mask)
        if log_behaviour is None:
            return jnp.mean(soft, axis=-1), {}
        kappa = conservative.deviation(jax.lax.stop_gradient(values), mask, log_behaviour)
        weights = conservative.agent_weights(kappa, self.temperature, self.lambda_sign)
        scalars = {"deviation": jnp.mean(kappa, axis=-1), "largest_weight": jnp.max(weights, axis=-1)}
        return jnp.sum(weights * soft, axis=-1), scalars
