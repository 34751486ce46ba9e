"""CFCQL for continuous actions: `cfcql_continuous` (Shao et al. 2023, arXiv 2309.12696; as released, on MATD3).

One judge sees all views (or the global state) and all actions. The soft maximum is taken over one agent's action at a time, the
others' being those of the data, and averaged over agents, with equal weights or with

    lambda = softmax_i(temperature * sign * kappa_i),   kappa_i = log pi_i(u_i) - log beta_i(u_i),   u = pi(o),

pi_i being a normal around the policy's action u_i and beta_i a model of the data (`vae`); policies are improved in the same
counterfactual way.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms import slots
from marl_bench.algorithms.networked import action_size
from marl_bench.algorithms.offline.central import CentralCQL
from marl_bench.algorithms.offline.conservative import agent_weights
from marl_bench.algorithms.offline.cql_continuous import GROUPS, NOISE
from marl_bench.algorithms.offline.minibatch import Minibatch
from marl_bench.algorithms.offline.recurrent import started
from marl_bench.algorithms.offline.td3 import OfflineTD3State
from marl_bench.algorithms.offline.vae import ActionVAE
from marl_bench.datasets.source import OfflineSource
from marl_bench.environment import Environment, check_integer, check_range, field


@struct.dataclass
class CFCQLContinuous(CentralCQL):
    """Twin critics that see everything, conservative about one agent's action at a time. Raises as `CentralCQL`."""

    behaviour: bool = field(
        False, static=True, doc="learn how likely actions are in the data, for weights by deviation from them"
    )
    behaviour_sizes: tuple[int, ...] = field(
        (750, 750), static=True, doc="layers of the encoder and of the decoder", unit="units"
    )
    behaviour_draws: int = field(20, static=True, doc="draws from the encoder for a density [L]")
    behaviour_rate: float = field(1e-4, doc="Adam step size of encoder and decoder")
    behaviour_updates: int = field(0, doc="first updates, in which only encoder and decoder learn", unit="updates")
    temperature: float = field(
        0.0,
        doc="how much an agent's deviation from the data decides its weight [tau]; 0: equal weights, "
        "100 or more: all weight on one agent",
    )
    lambda_sign: float = field(1.0, doc="+1: more weight on agents that deviate more (as released), -1: less")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "behaviour_draws", 1)
        check_range(self, "behaviour_rate", 0.0, open_low=True)
        check_range(self, "behaviour_updates", 0)
        check_range(self, "temperature", 0.0)
        check_range(self, "lambda_sign", -1.0, 1.0)
        if not isinstance(self.behaviour, bool):
            raise TypeError(f"behaviour={self.behaviour!r}: must be True or False (field of {self._kind})")
        sizes = self.behaviour_sizes
        if not isinstance(sizes, tuple) or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise TypeError(f"behaviour_sizes={sizes!r}: must be a tuple of positive integers (field of {self._kind})")
        if not self.behaviour and isinstance(self.temperature, (int, float)) and self.temperature != 0:
            raise ValueError(
                f"temperature={self.temperature}: weights by deviation need a model of the data; set behaviour=True "
                f"(fields of {self._kind})"
            )

    @property
    def waiting_updates(self) -> int:
        """`behaviour_updates`, where the data are modelled at all."""
        return int(self.behaviour_updates) if self.behaviour else 0

    def vae(self, read_size: int, joint_size: int) -> ActionVAE:
        """The model of joint actions of A D numbers, given S."""
        return ActionVAE(read_size, joint_size, self.behaviour_sizes)

    def init_networks(self, key: jax.Array, env: Environment) -> dict[str, Any]:
        """See `OfflineTD3.init_networks`; "behaviour", if it is learned, has leaves [1, ...]."""
        if not self.behaviour:
            return super().init_networks(key, env)
        key, key_behaviour = jax.random.split(key)
        model = self.vae(self.read_size(env), env.num_agents * action_size(env))
        return {**super().init_networks(key, env), "behaviour": jax.vmap(model.init)(key_behaviour[None])}

    # --- learning ---------------------------------------------------------------------------------

    def deviation(self, networks: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array) -> jax.Array:
        """[n, A] kappa, how unlikely in the data what the policies do is."""
        action = self.policy(networks["actor"], agents, batch.view)
        read, joint = batch.read[0], self.joint(action)[0]
        noise = jax.random.normal(key, (self.behaviour_draws, len(joint), 2 * joint.shape[-1]))
        params = jax.tree.map(lambda leaf: leaf[0], networks["behaviour"])
        model = self.vae(read.shape[-1], joint.shape[-1])
        log_policy = -action.shape[-1] * math.log(NOISE * math.sqrt(2.0 * math.pi))
        return log_policy - model.log_density(params, read, joint, noise, len(agents))

    def soft_value(
        self, critic: Any, networks: Any, agents: tuple[int, ...], batch: Minibatch, key: jax.Array
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """See `OfflineTD3.soft_value`: the mean of `soft_values` over the agents, weighted by `deviation`."""
        if not self.behaviour:
            return super().soft_value(critic, networks, agents, batch, key)
        soft = self.soft_values(critic, networks, agents, batch, key)
        kappa = jax.lax.stop_gradient(self.deviation(networks, agents, batch, jax.random.fold_in(key, len(GROUPS))))
        weights = agent_weights(kappa, self.temperature, self.lambda_sign)
        scalars = {"deviation": jnp.mean(kappa), "largest_weight": jnp.mean(jnp.max(weights, axis=-1))}
        return jnp.einsum("jcan,na->jcn", soft, weights, precision="highest"), self.conservative_weight, scalars

    def behaviour_loss(self, params: Any, batch: Minibatch, key: jax.Array) -> jax.Array:
        """[] loss of the model with parameters [1, ...]; see `vae`."""
        read, joint = batch.read[0], self.joint(batch.action)[0]
        noise = jax.random.normal(key, (len(joint), 2 * joint.shape[-1]))
        model = self.vae(read.shape[-1], joint.shape[-1])
        return model.loss(jax.tree.map(lambda leaf: leaf[0], params), read, joint, noise)

    def learn(
        self, networks: Any, target: Any, opt_state: Any, batches: Minibatch, key: jax.Array, agents: tuple[int, ...]
    ) -> tuple[Any, Any, Any, dict[str, jax.Array]]:
        """See `OfflineTD3.learn`; the model, if there is one, then takes a step on each batch."""
        if not self.behaviour:
            return super().learn(networks, target, opt_state, batches, key, agents)
        key, key_behaviour = jax.random.split(key)
        networks, target, opt_state, scalars = super().learn(networks, target, opt_state, batches, key, agents)

        def step(carry: Any, inputs: tuple[Minibatch, jax.Array]) -> tuple[Any, jax.Array]:
            params, adam = carry
            loss, gradient = jax.value_and_grad(self.behaviour_loss)(params, *inputs)
            params, adam, _ = slots.adam_step(params, gradient, adam, self.behaviour_rate, jnp.inf)
            return (params, adam), loss

        keys = jax.random.split(key_behaviour, self.critic_updates)
        start = (networks["behaviour"], opt_state["behaviour"])
        (params, adam), losses = jax.lax.scan(step, start, (batches, keys))
        networks, opt_state = {**networks, "behaviour": params}, {**opt_state, "behaviour": adam}
        return networks, target, opt_state, {**scalars, "behaviour_loss": jnp.mean(losses)}

    def update(self, state: OfflineTD3State, source: OfflineSource) -> tuple[OfflineTD3State, dict[str, jax.Array]]:
        """One update; in the first `behaviour_updates` only of the model of the data."""
        following, scalars = super().update(state, source)
        if not self.behaviour:
            return following, scalars
        return started(state.updates >= self.behaviour_updates, state, following), scalars
