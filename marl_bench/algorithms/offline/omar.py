"""OMAR for continuous actions: `omar` (Pan et al. 2022, arXiv 2111.11188), conservative critics and a search for better actions.

A policy that climbs a critic in a landscape with many peaks stays on a poor one, the more so the more agents learn; so it is also
drawn towards the best action of a search without gradients.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.offline.cql_continuous import CQLContinuous
from marl_bench.algorithms.offline.minibatch import Minibatch
from marl_bench.environment import check_integer, check_range, field

FIRST_SPREAD = 2.0
"""Standard deviation of the first actions of a search, before they are cut at the bounds."""


@struct.dataclass
class OMAR(CQLContinuous):
    """Independent conservative TD3 whose policies also imitate found actions. Raises as `CQLContinuous`."""

    search_weight: float = field(
        1.0, doc="weight of imitating found actions, against climbing the critic, in [0, 1] [tau]"
    )
    search_iterations: int = field(3, static=True, doc="iterations of a search")
    search_actions: int = field(10, static=True, doc="actions drawn in an iteration [K]")
    search_elites: int = field(
        0, static=True, doc="best actions, of all iterations, that the next are drawn around; 0: all, by exp(Q)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "search_weight", 0.0, 1.0)
        for name in ("search_iterations", "search_actions"):
            check_integer(self, name, 1)
        check_integer(self, "search_elites", 0, self.search_actions)

    @property
    def counterpart(self) -> str:
        """The learner for numbered actions."""
        return "omar_discrete"

    def policy_terms(
        self, action: jax.Array, value: Any, batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(1 - w) (-mean Q_1) + w mean (pi - a*)^2, a* from `searched` (eq. 4); see `OfflineTD3.policy_terms`."""
        del batch
        found, gain = self.searched(jax.lax.stop_gradient(action), value, key)
        imitation = jnp.mean(jnp.square(action - found), axis=(1, 2))
        climbed = -jnp.mean(value(action[:, None]), axis=(1, 2))
        loss = (1.0 - self.search_weight) * climbed + self.search_weight * imitation
        return loss, {"search_gain": jnp.mean(gain), "imitation": jnp.mean(imitation)}

    def searched(self, action: jax.Array, value: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[N, n, D] the best of `action` [N, n, D] and of all actions drawn around better and better means; [N, n] what it gains.

        Args:
          value: function of actions [N, K, n, D] -> their values [N, K, n].
        """
        count, length, size = action.shape
        mean, spread = jnp.zeros((count, 1, length, size)), jnp.full((count, 1, length, size), FIRST_SPREAD)
        best, start = action[:, None], value(action[:, None])
        highest = start
        pool, worth = jnp.zeros((count, 0, length, size)), jnp.zeros((count, 0, length))
        for iteration in range(self.search_iterations):
            noise = jax.random.normal(jax.random.fold_in(key, iteration), (count, self.search_actions, length, size))
            drawn = jnp.clip(mean + spread * noise, -1.0, 1.0)
            drawn_worth = value(drawn)
            if self.search_elites:
                pool, worth = (jnp.concatenate(pair, axis=1) for pair in ((pool, drawn), (worth, drawn_worth)))
                order = jnp.argsort(-worth, axis=1)[:, : self.search_elites]
                pool, worth = jnp.take_along_axis(pool, order[..., None], 1), jnp.take_along_axis(worth, order, 1)
                mean = jnp.mean(pool, axis=1, keepdims=True)
                spread = jnp.std(pool, axis=1, keepdims=True)
            else:
                weight = jax.nn.softmax(drawn_worth, axis=1)[..., None]
                mean = jnp.sum(weight * drawn, axis=1, keepdims=True)
                spread = jnp.sqrt(jnp.mean(jnp.square(drawn - mean), axis=1, keepdims=True))
            top = jnp.argmax(drawn_worth, axis=1, keepdims=True)
            challenger = jnp.take_along_axis(drawn, top[..., None], 1)
            its_worth = jnp.max(drawn_worth, axis=1, keepdims=True)
            best = jnp.where((its_worth > highest)[..., None], challenger, best)
            highest = jnp.maximum(its_worth, highest)
        return jax.lax.stop_gradient(best[:, 0]), jax.lax.stop_gradient((highest - start)[:, 0])
