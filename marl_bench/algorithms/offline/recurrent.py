"""What the offline learners for whole episodes share: agents that remember, and how they read an episode.

An agent reads its view, its own last action and its number, through a dense layer and a GRU (Shao et al. 2023, as released;
`recurrent_size=0` leaves the memory out). Time stands in front in what is learned from: leaves [T + 1, R, ...] of R episodes,
the last row of which holds what was seen at the end.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.distributions import MASKED
from marl_bench.algorithms.equations import clip_by_global_norm, global_norm, lambda_targets
from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.offline.offline import OfflineLearner
from marl_bench.datasets.sampling import Sequence, episodes
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, Observation, field
from marl_bench.learner import TrainState

NOBODY = -1
"""The last action before the first one: no entry of its one-hot vector is set."""


@struct.dataclass
class OfflineState(TrainState):
    """Training state; `params` is {network name: [G, ...]} and {"slots": [N] int32}.

    Attributes:
      target: target networks by name.
      opt_state: Adam states by name.
    """

    target: Any
    opt_state: Any


@struct.dataclass
class RecurrentLearner(OfflineLearner):
    """Base of the learners for whole episodes. Raises as `OfflineLearner`."""

    hidden_sizes: tuple[int, ...] = field((64,), static=True, doc="widths of the dense layers", unit="units")
    recurrent_size: int = field(64, static=True, doc="width of the GRU behind the dense layers; 0: no memory")
    last_action: bool = field(
        True, static=True, doc="each agent also reads its own last action, if actions are numbered"
    )
    learning_rate: float = field(1e-3, doc="Adam step size")
    max_grad_norm: float = field(10.0, doc="global L2 norm a gradient is clipped to")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.last_action, bool):
            raise TypeError(f"last_action={self.last_action!r}: must be True or False (field of {self._kind})")

    # --- agents -----------------------------------------------------------------------------------

    def agent(self, shape: tuple[int, ...], num_agents: int, num_actions: int, outputs: int = 0) -> Network:
        """An agent's network from a view of `shape`; `outputs`: not needed once the parameters exist."""
        extra = num_actions if self.last_action else 0
        return self.network(shape, num_agents, outputs, extra=extra)

    def init_agents(self, key: jax.Array, env: Environment, outputs: int) -> Any:
        """Parameters [G, ...] of agents with so many outputs."""
        return self.init_slots(self.agent(env.observation_shape, env.num_agents, env.num_actions, outputs), key, env)

    def beside_view(self, last: jax.Array, num_actions: int) -> jax.Array:
        """[..., N, E] what agents read beside their views; `last`: [..., N] int32 own last actions or `NOBODY`."""
        ids = self.ids(last.shape[-1])
        ids = jnp.broadcast_to(ids, (*last.shape, ids.shape[-1]))
        if not self.last_action:
            return ids
        return jnp.concatenate([jax.nn.one_hot(last, num_actions), ids], axis=-1)

    def unrolled(self, params: Any, env: Environment, batch: Sequence) -> jax.Array:
        """[T + 1, R, N, K] outputs of the agents with parameters [G, ...] in every row of `batch`."""
        shape = batch.view.shape[:3]
        last = jnp.full(shape, NOBODY)
        if env.num_actions:
            last = jnp.concatenate([last[:1], batch.action[:-1]])
        network = self.agent(env.observation_shape, env.num_agents, env.num_actions)
        memory = jnp.zeros((*shape[1:], self.recurrent_size))
        beside = self.beside_view(last, env.num_actions)
        flags = jnp.zeros(shape[:2], bool)
        return slots.unroll_rows(network, self.slots(env), params, memory, batch.view, beside, flags)[1]

    # --- acting -----------------------------------------------------------------------------------

    def initial_memory(self, num_agents: int) -> Any:
        """What the GRUs remember, [N, recurrent_size], and the last actions, [N] int32."""
        return super().initial_memory(num_agents), jnp.full(num_agents, NOBODY)

    def step(self, params: Any, agents: Any, memory: Any, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """Outputs [N, K] of agents with parameters [G, ...] and slots `agents`, and what their GRUs then remember."""
        view, num_actions = observation.agents_view, observation.action_mask.shape[-1]
        network = self.agent(view.shape[1:], view.shape[0], num_actions)
        beside = self.beside_view(memory[1], num_actions)
        remembered, outputs = slots.step(network, agents, params, memory[0], view, beside, jnp.bool_(False))
        return outputs, remembered

    # --- learning ---------------------------------------------------------------------------------

    def batch(self, source: OfflineSource, key: jax.Array) -> Sequence:
        """`batch_size` whole episodes, time in front."""
        assert source.data is not None
        drawn = episodes(source.data, source.part, key, self.batch_size, source.longest)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), drawn)

    def first_state(self, networks: dict[str, Any], target: Any, key: jax.Array, env: Environment) -> OfflineState:
        """The state before the first update. `networks`: by name, leaves [G, ...]; `target`: copies of some."""
        return OfflineState(
            params={**networks, "slots": jnp.asarray(self.slots(env), jnp.int32)},
            key=key,
            updates=jnp.int32(0),
            env_steps=jnp.int32(0),
            target=target,
            opt_state={name: slots.adam_init(networks[name]) for name in networks},
        )

    @property
    def clipped_together(self) -> tuple[str, ...]:
        """Networks whose gradients are clipped as one; the others are clipped each on its own."""
        return ()

    def step_size(self, name: str) -> Any:
        """Adam step size of a network."""
        del name
        return self.learning_rate

    def next_target(self, target: Any, networks: Any, updates: jax.Array) -> Any:
        """Target networks after so many updates."""
        del networks, updates
        return target

    def loss(
        self, networks: Any, target: Any, env: Environment, batch: Sequence, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What is minimised over all networks, and scalars to log. `batch`: time in front; `key`: [] typed PRNG key."""
        raise NotImplementedError(f"{self._kind} must define loss")

    def update(self, state: OfflineState, source: OfflineSource) -> tuple[OfflineState, dict[str, jax.Array]]:
        """One gradient step on `batch_size` episodes."""
        key_batch, key_loss = jax.random.split(jax.random.fold_in(state.key, state.updates))
        batch = self.batch(source, key_batch)
        networks = {name: state.params[name] for name in state.opt_state}
        gradient, metrics = jax.grad(self.loss, has_aux=True)(
            networks, state.target, source.environment, batch, key_loss
        )
        together = self.clipped_together
        groups = (
            [together, *((name,) for name in networks if name not in together)] if together else list(zip(networks))
        )
        for names in groups:
            part = {name: gradient[name] for name in names}
            gradient |= clip_by_global_norm(part, self.max_grad_norm)
            metrics[f"gradient_norm_{names[0]}"] = global_norm(part)
        found = {
            name: slots.adam_step(networks[name], gradient[name], state.opt_state[name], self.step_size(name), jnp.inf)
            for name in networks
        }
        networks, opt_state = ({name: parts[place] for name, parts in found.items()} for place in (0, 1))
        updates = state.updates + 1
        state = dataclasses.replace(
            state,
            params={**state.params, **networks},
            updates=updates,
            env_steps=updates,
            target=self.next_target(state.target, networks, updates),
            opt_state=opt_state,
        )
        return state, metrics


def copied(target: Any, networks: Any, now: jax.Array) -> Any:
    """Target networks, replaced by those of the same names if `now`, [] bool."""
    return {name: where(now, networks[name], target[name]) for name in target}


def where(condition: jax.Array, one: Any, other: Any) -> Any:
    """`one` or `other`, trees of the same structure. Chosen, not branched over: under `vmap` both would be computed anyway."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), one, other)


def started(ready: jax.Array, state: Any, following: Any) -> Any:
    """Training state `following`; unless `ready`, [] bool, the networks that have targets stay as in `state`."""
    names = tuple(state.target)
    params, opt_state = (
        {**new, **where(ready, {name: new[name] for name in names}, {name: old[name] for name in names})}
        for new, old in ((following.params, state.params), (following.opt_state, state.opt_state))
    )
    target = where(ready, following.target, state.target)
    return dataclasses.replace(following, params=params, opt_state=opt_state, target=target)


def returns(
    batch: Sequence,
    reward: jax.Array,
    discount: jax.Array,
    following: jax.Array,
    gamma: jax.Array | float,
    td_lambda: jax.Array | float,
) -> jax.Array:
    """[T, R, ...] TD(lambda) targets, cut where an episode ends, in whichever way, and before a step that teaches nothing.

        y_t = r_t + gamma d_t ((1 - lambda) v_{t+1} + lambda y_{t+1})

    Args:
      reward, discount: [T, R, ...]. following: [T, R, ...] values of what was seen after the steps.
    """
    cut = batch.is_last | ~jnp.concatenate([batch.valid[1:], batch.valid[-1:]])
    cut = cut.reshape(*cut.shape, *[1] * (reward.ndim - 2))
    return lambda_targets(reward, following, discount, cut, gamma, td_lambda)


def valid_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """[] mean over the valid steps [T, R] of `values` [T, R], or, of each agent's, [T, R, N]."""
    if values.ndim > valid.ndim:
        values = jnp.mean(values, axis=-1)
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def log_policy(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """[..., A] log-probabilities of a softmax over the legal actions."""
    return jax.nn.log_softmax(jnp.where(mask, logits, MASKED))
