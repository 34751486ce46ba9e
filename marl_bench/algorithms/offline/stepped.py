"""Critics that take one gradient step for each time of the episodes, the last time first: what `icq` and `omar_discrete` share.

Their targets are found first, for the whole batch; the policy takes one step after them, with the values that the steps saw (as in
COMA, Foerster et al. 2018, from whose code the released learners of Shao et al. 2023 descend). Numbered actions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.equations import clip_by_global_norm
from marl_bench.algorithms.offline.actor_critic import ActorCriticLearner
from marl_bench.algorithms.offline.recurrent import OfflineState, copied, where
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, check_range, field


@struct.dataclass
class SteppedCriticLearner(ActorCriticLearner):
    """Base of `ICQ` and `OMARDiscrete`. Raises as `ActorCriticLearner`."""

    critic_learning_rate: float = field(1e-3, doc="Adam step size of the critics")
    td_lambda: float = field(0.6, doc="weight of longer returns in the targets [lambda], in [0, 1]; 0: one step")
    target_period: int = field(12, doc="updates between two copies of the networks to the target networks")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "critic_learning_rate", 0.0, open_low=True)
        check_range(self, "td_lambda", 0.0, 1.0)
        check_range(self, "target_period", 1)

    @property
    def actions(self) -> str:
        """ "discrete"."""
        return "discrete"

    def targets(self, networks: Any, target: Any, env: Environment, batch: Sequence, read: jax.Array) -> jax.Array:
        """[T, R, ...] what the critics learn; `read`: [T + 1, R, N, I] from `ActorCriticLearner.read`."""
        raise NotImplementedError(f"{self._kind} must define targets")

    def critic_loss(
        self, critics: Any, env: Environment, batch: Sequence, read: jax.Array, wanted: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What the critics minimise over L times, and the values [L, R, N, A] that the policy is judged by.

        Args:
          critics: all networks but the policy's. batch: leaves [L, R, ...]. read: [L, R, N, I]. wanted: [L, R, ...] from `targets`.
        """
        raise NotImplementedError(f"{self._kind} must define critic_loss")

    def policy_loss(
        self, actor: Any, critics: Any, env: Environment, batch: Sequence, q: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What the policies with parameters `actor` minimise, and scalars to log. `q`: [T, R, N, A] from `critic_loss`."""
        raise NotImplementedError(f"{self._kind} must define policy_loss")

    def update(self, state: OfflineState, source: OfflineSource) -> tuple[OfflineState, dict[str, jax.Array]]:
        """A step of the critics for each time of `batch_size` episodes, and one of the policy."""
        env = source.environment
        batch = self.batch(source, jax.random.fold_in(state.key, state.updates))
        networks = {name: state.params[name] for name in state.opt_state}
        critics, opt_state, q, critic_loss = self.critics_after(state, networks, env, batch)
        grad = jax.grad(self.policy_loss, has_aux=True)
        gradient, metrics = grad(networks["actor"], critics, env, batch, q)
        gradient = clip_by_global_norm(gradient, self.max_grad_norm)
        actor, opt_state["actor"], _ = slots.adam_step(
            networks["actor"], gradient, state.opt_state["actor"], self.learning_rate, jnp.inf
        )
        networks, updates = {**critics, "actor": actor}, state.updates + 1
        state = dataclasses.replace(
            state,
            params={**state.params, **networks},
            updates=updates,
            env_steps=updates,
            target=copied(state.target, networks, updates % self.target_period == 0),
            opt_state=opt_state,
        )
        return state, metrics | {"critic_loss": critic_loss}

    def critics_after(
        self, state: OfflineState, networks: Any, env: Environment, batch: Sequence
    ) -> tuple[dict[str, Any], dict[str, Any], jax.Array, jax.Array]:
        """Critics and their Adam states after a step for each time; values [T, R, N, A] that the steps saw; their mean loss."""
        read = self.read(env, batch)
        wanted = self.targets(networks, state.target, env, batch, read)
        names = [name for name in networks if name != "actor"]

        def step(carry: Any, row: Any) -> tuple[Any, Any]:
            critics, opt_state = carry
            row, read, wanted = jax.tree.map(lambda leaf: leaf[None], row)
            loss = jax.value_and_grad(self.critic_loss, has_aux=True)
            (value, q), gradient = loss(critics, env, row, read, wanted)
            clipped: Any = clip_by_global_norm(gradient, self.max_grad_norm)
            found = {
                name: slots.adam_step(critics[name], part, opt_state[name], self.critic_learning_rate, jnp.inf)
                for name, part in clipped.items()
            }
            following = tuple({name: parts[place] for name, parts in found.items()} for place in (0, 1))
            # Where all episodes have ended there is nothing to learn, and Adam would go on by its momentum.
            return where(jnp.any(row.valid), following, carry), (q[0], value)

        steps = len(read) - 1
        rows = jax.tree.map(lambda leaf: leaf[:steps], (batch, read, wanted))
        carry = tuple({name: of[name] for name in names} for of in (networks, state.opt_state))
        (critics, opt_state), (q, losses) = jax.lax.scan(step, carry, rows, reverse=True)
        times = jnp.maximum(jnp.sum(jnp.any(batch.valid, axis=1)), 1)
        return critics, opt_state, q, jnp.sum(losses) / times


def batch_weights(scores: jax.Array, counted: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """[T, R, ...] B softmax(scores / temperature) over the B counted rows of each time, 0 in the others.

    Args:
      scores: [T, R, ...]. counted: [T, R] bool.
    """
    counted = counted.reshape(*counted.shape, *[1] * (scores.ndim - 2))
    chance = jax.nn.softmax(scores / temperature, axis=1, where=counted)
    return jnp.where(counted, chance * jnp.sum(counted, axis=1, keepdims=True), 0.0)
