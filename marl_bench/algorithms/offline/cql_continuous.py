"""Conservative Q-learning of continuous actions for each agent alone: `cql_continuous`; and what all conservative learners share.

Kumar et al. 2020 (arXiv 2006.04779, eq. 4), as released with OMAR (Pan et al. 2022): a soft maximum of the values of M actions that
are drawn rather than recorded is lowered against the value of the recorded one,

    soft_i = T log sum_m exp((Q(s, .., a_i^m, ..) - log p(a_i^m)) / T).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import logsumexp

from marl_bench.algorithms.offline.minibatch import Minibatch
from marl_bench.algorithms.offline.td3 import OfflineTD3
from marl_bench.environment import check_integer, check_range, field

GROUPS = ("uniform", "current", "next")
NOISE = 0.2
"""Standard deviation of the noise around a policy's actions, in half widths of the bounds."""


@struct.dataclass
class CQLContinuous(OfflineTD3):
    """Independent TD3 with a conservative term. Raises as `OfflineTD3`."""

    conservative_weight: float = field(1.0, doc="weight of the conservative term [alpha]; 0: plain TD3")
    drawn_actions: int = field(10, static=True, doc="actions drawn for each agent from each source [M]")
    draw_from: tuple[str, ...] = field(
        ("uniform",),
        static=True,
        doc="sources of drawn actions: uniform, current (the policy in this view, with noise), next (in the next view)",
    )
    importance: bool = field(True, static=True, doc="subtract the log-density of a drawn action from its value")
    soft_temperature: float = field(1.0, doc="softness of the maximum over drawn actions [T]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "drawn_actions", 1)
        check_range(self, "conservative_weight", 0.0)
        check_range(self, "soft_temperature", 0.0, open_low=True)
        if not isinstance(self.importance, bool):
            raise TypeError(f"importance={self.importance!r}: must be True or False (field of {self._kind})")
        chosen = self.draw_from
        if not isinstance(chosen, tuple) or not chosen or len(set(chosen)) < len(chosen) or set(chosen) - set(GROUPS):
            raise ValueError(f"draw_from={chosen!r}: must be some of {', '.join(GROUPS)} (field of {self._kind})")

    @property
    def counterpart(self) -> str:
        """The learner of the same name for numbered actions."""
        return self.name.removesuffix("_continuous")

    @property
    def needs_next_action(self) -> bool:
        """Whether the others' next actions are needed."""
        return "next" in self.draw_from

    def drawn(
        self, networks: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """By source: actions [N, M, n, D] and their log-densities [N, M, n]."""
        count, length, size = batch.action.shape
        shape = (count, self.drawn_actions, length, size)
        found, views = {}, {"current": batch.view, "next": batch.next_view}
        for place, name in enumerate(GROUPS):
            if name not in self.draw_from:
                continue
            key_group = jax.random.fold_in(key, place)
            if name == "uniform":
                density = jnp.full(shape[:3], size * math.log(0.5))
                found[name] = jax.random.uniform(key_group, shape, minval=-1.0, maxval=1.0), density
                continue
            normal = jax.random.normal(key_group, shape)
            action = jax.lax.stop_gradient(self.policy(networks["actor"], agents, views[name]))
            density = jnp.sum(-0.5 * jnp.square(normal) - math.log(NOISE * math.sqrt(2.0 * math.pi)), axis=-1)
            found[name] = jnp.clip(action[:, None] + NOISE * normal, -1.0, 1.0), density
        return found

    def soft_maximum(self, value: jax.Array, density: jax.Array) -> jax.Array:
        """[...] T log sum_m exp((Q - log p) / T) over the second last axis of values [..., M, n] and densities."""
        if self.importance:
            value = value - density
        return self.soft_temperature * logsumexp(value / self.soft_temperature, axis=-2)

    def soft_values(
        self, critic: Any, networks: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array
    ) -> jax.Array:
        """[J, C, A, n] soft maximum over drawn actions of each agent, the others' being recorded ones."""
        values, densities = [], []
        for name, (action, density) in self.drawn(networks, agents, batch, key).items():
            base = batch.action
            if name == "next":
                assert batch.next_action is not None
                base = batch.next_action
            values.append(self.changed(critic, agents, batch.read, base, action))
            densities.append(self.by_judge(density)[:, None])
        value, density = (jnp.concatenate(parts, axis=3) for parts in (values, densities))
        return self.soft_maximum(value, density)

    def soft_value(
        self, critic: Any, networks: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """See `OfflineTD3.soft_value`: the mean of `soft_values` over the agents of a judge."""
        soft = self.soft_values(critic, networks, agents, batch, key)
        return jnp.mean(soft, axis=2), self.conservative_weight, {}
